// Command franz takes franz-go through every step of compat/README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"ottla/compat/internal/records"
	"ottla/compat/internal/suite"
)

var codecs = []struct {
	name  string
	codec kgo.CompressionCodec
}{
	{"none", kgo.NoCompression()},
	{"gzip", kgo.GzipCompression()},
	{"snappy", kgo.SnappyCompression()},
	{"lz4", kgo.Lz4Compression()},
	{"zstd", kgo.ZstdCompression()},
}

// run is one run of the suite with its client and what it administers with.
type run struct {
	*suite.Suite
	client *kgo.Client
	admin  *kadm.Client
}

func main() {
	s, err := suite.New("franz-go")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers()...))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer client.Close()
	r := run{s, client, kadm.NewClient(client)}
	ctx := context.Background()
	s.Step("create", func() (suite.Outcome, error) { return r.create(ctx) })
	for at, codec := range codecs {
		s.Step("produce:"+codec.name, func() (suite.Outcome, error) { return r.produce(ctx, at) })
	}
	s.Step("offsets", func() (suite.Outcome, error) { return r.offsets(ctx) })
	s.Step("group", func() (suite.Outcome, error) {
		return r.group(ctx, r.Group, kgo.HeartbeatInterval(500*time.Millisecond))
	})
	s.Step("consumer-group", func() (suite.Outcome, error) {
		return r.group(ctx, r.Group+"-consumer", kgo.ServerSideBalancer())
	})
	s.Step("idempotent", func() (suite.Outcome, error) { return r.idempotent(ctx) })
	s.Step("transactions", func() (suite.Outcome, error) { return r.transactions(ctx) })
	s.Step("share", func() (suite.Outcome, error) { return r.share(ctx) })
	s.Step("configs", func() (suite.Outcome, error) { return r.configs(ctx) })
	s.Step("delete", func() (suite.Outcome, error) { return r.delete(ctx) })
}

func (r run) create(ctx context.Context) (suite.Outcome, error) {
	configs := map[string]*string{"segment.bytes": kadm.StringPtr(suite.SegmentBytes)}
	if _, err := r.admin.CreateTopic(ctx, records.Partitions, -1, configs, r.Topic); err != nil {
		return suite.Outcome{}, err
	}
	_, err := r.admin.CreateTopic(ctx, records.Partitions, -1, configs, r.Topic)
	if err := suite.Refused("creating twice", err, kerr.TopicAlreadyExists); err != nil {
		return suite.Outcome{}, err
	}
	err = suite.WaitFor("6 partitions in the metadata", func() (bool, error) {
		topics, err := r.admin.ListTopics(ctx, r.Topic)
		return len(topics[r.Topic].Partitions) == records.Partitions, err
	})
	return suite.Outcome{}, err
}

func (r run) produce(ctx context.Context, at int) (suite.Outcome, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(r.Brokers()...),
		kgo.ProducerBatchCompression(codecs[at].codec),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(20*time.Millisecond),
		kgo.DisableIdempotentWrite(),
		// Without idempotence a retried batch may otherwise land behind its successor.
		kgo.MaxProduceRequestsInflightPerBroker(1),
	)
	if err != nil {
		return suite.Outcome{}, err
	}
	defer client.Close()

	from, to := r.Share(at, len(codecs))
	outcome := suite.Outcome{Records: to - from}
	var first kgo.FirstErrPromise
	for i := from; i < to; i++ {
		record := records.At(i, r.BaseMs)
		outcome.Bytes += int64(len(record.Value))
		done := first.Promise()
		headers := make([]kgo.RecordHeader, 0, len(record.Headers))
		for _, header := range record.Headers {
			headers = append(headers, kgo.RecordHeader(header))
		}
		client.Produce(ctx, &kgo.Record{
			Topic:     r.Topic,
			Partition: record.Partition,
			Timestamp: time.UnixMilli(record.Timestamp),
			Key:       record.Key,
			Value:     record.Value,
			Headers:   headers,
		}, func(got *kgo.Record, err error) {
			if err == nil && (got.Partition != record.Partition || got.Offset != record.Offset) {
				err = fmt.Errorf("record %d was acknowledged at %d/%d", i, got.Partition, got.Offset)
			}
			done(got, err)
		})
	}
	return outcome, first.Err()
}

func (r run) offsets(ctx context.Context) (suite.Outcome, error) {
	n := r.Records
	for name, kind := range map[string]struct {
		list func(context.Context, ...string) (kadm.ListedOffsets, error)
		want func(p int32) int64
	}{
		"earliest":      {r.admin.ListStartOffsets, func(int32) int64 { return 0 }},
		"latest":        {r.admin.ListEndOffsets, func(p int32) int64 { return records.EndOffset(p, n) }},
		"max timestamp": {r.admin.ListMaxTimestampOffsets, func(p int32) int64 { return records.EndOffset(p, n) - 1 }},
	} {
		listed, err := kind.list(ctx, r.Topic)
		if err == nil {
			err = requireOffsets(listed, r.Topic, name, kind.want)
		}
		if err != nil {
			return suite.Outcome{}, err
		}
	}
	for _, lookup := range r.TimeLookups() {
		listed, err := r.admin.ListOffsetsAfterMilli(ctx, lookup.Timestamp, r.Topic)
		if err == nil {
			err = requireOffsets(listed, r.Topic, fmt.Sprint("time ", lookup.Timestamp), func(p int32) int64 {
				if lookup.Offsets[p] < 0 { // kadm asks for the end where there is no such record
					return records.EndOffset(p, n)
				}
				return lookup.Offsets[p]
			})
		}
		if err != nil {
			return suite.Outcome{}, err
		}
	}
	return suite.Outcome{}, nil
}

func requireOffsets(listed kadm.ListedOffsets, topic, name string, want func(p int32) int64) error {
	for p := range int32(records.Partitions) {
		got, found := listed.Lookup(topic, p)
		switch {
		case !found:
			return fmt.Errorf("%s of %d is not answered", name, p)
		case got.Err != nil:
			return fmt.Errorf("%s of %d: %w", name, p, got.Err)
		case got.Offset != want(p):
			return fmt.Errorf("%s of %d is %d, not %d", name, p, got.Offset, want(p))
		}
	}
	return nil
}

// group is the play of a group, with the classic protocol or with the consumer protocol (KIP-848).
func (r run) group(ctx context.Context, group string, protocol kgo.Opt) (suite.Outcome, error) {
	tally := suite.NewTally(r.Suite)
	ended := make(chan error, 2)
	go func() { ended <- r.member(ctx, tally, "A", group, protocol) }()
	if err := suite.WaitFor("a quarter of the records", func() (bool, error) {
		select {
		case err := <-ended:
			return true, errors.Join(errors.New("A ended early"), err)
		default:
			return tally.Reached(1, 4), nil
		}
	}); err != nil {
		return suite.Outcome{}, err
	}
	go func() { ended <- r.member(ctx, tally, "B", group, protocol) }()
	for range 2 {
		if err := <-ended; err != nil {
			return suite.Outcome{}, err
		}
	}

	fetched, err := r.admin.FetchOffsets(ctx, group)
	if err != nil {
		return suite.Outcome{}, err
	}
	committed := map[int32]int64{}
	for p, offset := range fetched[r.Topic] {
		committed[p] = offset.At
	}
	if err := tally.CheckCommitted(committed); err != nil {
		return suite.Outcome{}, err
	}
	if err := r.member(ctx, tally, "C", group, protocol); err != nil {
		return suite.Outcome{}, err
	}
	return tally.Finish(committed)
}

// member reads in the group until its part is done. It commits what it has taken when it loses partitions and when it
// leaves; a rebalance cannot come between a poll and the end of its processing.
func (r run) member(ctx context.Context, tally *suite.Tally, name, group string, protocol kgo.Opt) error {
	var assigned atomic.Int32
	client, err := kgo.NewClient(
		kgo.SeedBrokers(r.Brokers()...),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(r.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		protocol,
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, added map[string][]int32) {
			fmt.Fprintln(os.Stderr, name, "is assigned", added[r.Topic])
			assigned.Add(int32(len(added[r.Topic])))
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, client *kgo.Client, lost map[string][]int32) {
			fmt.Fprintln(os.Stderr, name, "loses", lost[r.Topic])
			if err := client.CommitUncommittedOffsets(ctx); err != nil {
				fmt.Fprintln(os.Stderr, name, "cannot commit:", err)
			}
			assigned.Add(-int32(len(lost[r.Topic])))
		}),
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	for !tally.Done(name, int(assigned.Load())) {
		if name == "B" && assigned.Load() > 0 {
			tally.BJoined()
		}
		if !tally.MayRead(name, int(assigned.Load())) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if err := poll(ctx, client, func(got *kgo.Record) error { return tally.Take(name, generated(got)) }); err != nil {
			return err
		}
		client.AllowRebalance()
	}
	return client.CommitUncommittedOffsets(ctx)
}

// poll gives one poll's records to take.
func poll(ctx context.Context, client *kgo.Client, take func(*kgo.Record) error) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	fetches := client.PollRecords(ctx, 100)
	if err := fetches.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	for records := fetches.RecordIter(); !records.Done(); {
		if err := take(records.Next()); err != nil {
			return err
		}
	}
	return nil
}

// generated is a record that was read, in the generator's terms.
func generated(got *kgo.Record) records.Record {
	headers := make([]records.Header, 0, len(got.Headers))
	for _, header := range got.Headers {
		headers = append(headers, records.Header(header))
	}
	return records.Record{
		Partition: got.Partition,
		Offset:    got.Offset,
		Timestamp: got.Timestamp.UnixMilli(),
		Key:       got.Key,
		Value:     got.Value,
		Headers:   headers,
	}
}

func (r run) idempotent(ctx context.Context) (suite.Outcome, error) {
	if _, err := r.admin.CreateTopic(ctx, records.Partitions, -1, nil, r.IdempotentTopic); err != nil {
		return suite.Outcome{}, err
	}
	producer, err := kgo.NewClient(
		kgo.SeedBrokers(r.Brokers()...),
		kgo.DefaultProduceTopic(r.IdempotentTopic),
		kgo.ProducerBatchMaxBytes(2000),
	)
	if err != nil {
		return suite.Outcome{}, err
	}
	defer producer.Close()
	var first kgo.FirstErrPromise
	for i := range r.IdempotentRecords {
		record := kgo.KeySliceRecord(fmt.Appendf(nil, "key-%d", i%100), fmt.Append(nil, i))
		producer.Produce(ctx, record, first.Promise())
	}
	if err := first.Err(); err != nil {
		return suite.Outcome{}, err
	}

	consumer, err := kgo.NewClient(
		kgo.SeedBrokers(r.Brokers()...),
		kgo.ConsumeTopics(r.IdempotentTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return suite.Outcome{}, err
	}
	defer consumer.Close()
	once := suite.NewInOrderOnce(r.IdempotentRecords)
	for !once.Complete() {
		err := poll(ctx, consumer, func(got *kgo.Record) error { return once.Take(got.Partition, got.Value) })
		if err != nil {
			return suite.Outcome{}, err
		}
	}
	ends, err := r.admin.ListEndOffsets(ctx, r.IdempotentTopic)
	if err != nil {
		return suite.Outcome{}, err
	}
	inLog := int64(0)
	ends.Each(func(end kadm.ListedOffset) { inLog += end.Offset })
	return once.Finish(inLog)
}

// setting is the described value of one setting and whether it is the topic's own.
func (r run) setting(ctx context.Context, name string) (value string, own bool, described int, err error) {
	all, err := r.admin.DescribeTopicConfigs(ctx, r.Topic)
	if err != nil {
		return "", false, 0, err
	}
	topic, err := all.On(r.Topic, nil)
	if err == nil {
		err = topic.Err
	}
	for _, config := range topic.Configs {
		if config.Key == name {
			return config.MaybeValue(), config.Source.String() == "DYNAMIC_TOPIC_CONFIG", len(topic.Configs), err
		}
	}
	return "", false, 0, errors.Join(fmt.Errorf("%s is not described", name), err)
}

// requireSetting waits for a setting: Apache Kafka acknowledges a change before its broker has taken notice of it.
func (r run) requireSetting(ctx context.Context, name, value string, own bool) error {
	return suite.WaitFor(fmt.Sprintf("%s=%s (the topic's own: %t)", name, value, own), func() (bool, error) {
		gotValue, gotOwn, _, err := r.setting(ctx, name)
		return gotValue == value && gotOwn == own, err
	})
}

func (r run) alter(ctx context.Context, op kadm.IncrementalOp, name string, value *string) error {
	altered, err := r.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: name, Value: value}}, r.Topic)
	if err != nil {
		return err
	}
	answer, err := altered.On(r.Topic, nil)
	return errors.Join(err, answer.Err)
}

func (r run) configs(ctx context.Context) (suite.Outcome, error) {
	before, _, described, err := r.setting(ctx, "retention.ms")
	if err == nil && described <= 20 {
		err = fmt.Errorf("only %d settings are described", described)
	}
	if err != nil {
		return suite.Outcome{}, err
	}
	for _, do := range []func() error{
		func() error { return r.requireSetting(ctx, "segment.bytes", suite.SegmentBytes, true) },
		func() error { return r.requireSetting(ctx, "retention.ms", before, false) },
		func() error { return r.alter(ctx, kadm.SetConfig, "retention.ms", kadm.StringPtr(suite.RetentionMs)) },
		func() error { return r.requireSetting(ctx, "retention.ms", suite.RetentionMs, true) },
		func() error {
			err := r.alter(ctx, kadm.SetConfig, "retention.ms", kadm.StringPtr("soon"))
			return suite.Refused("retention.ms=soon", err, kerr.InvalidConfig)
		},
		func() error { return r.alter(ctx, kadm.DeleteConfig, "retention.ms", nil) },
		func() error { return r.requireSetting(ctx, "retention.ms", before, false) },
		func() error { return r.alter(ctx, kadm.SetConfig, "max.message.bytes", kadm.StringPtr("2000")) },
		func() error { return r.requireSetting(ctx, "max.message.bytes", "2000", true) },
		func() error { return r.tooLarge(ctx) },
		func() error { return r.alter(ctx, kadm.DeleteConfig, "max.message.bytes", nil) },
	} {
		if err := do(); err != nil {
			return suite.Outcome{}, err
		}
	}
	return suite.Outcome{Note: fmt.Sprint(described, " settings")}, nil
}

// tooLarge requires that max.message.bytes binds at once.
func (r run) tooLarge(ctx context.Context) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(r.Brokers()...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.ProduceSync(ctx, &kgo.Record{Topic: r.Topic, Value: records.Pool[:3000]}).First()
	return suite.Refused("3,000 bytes past max.message.bytes=2000", err, kerr.MessageTooLarge)
}

func (r run) delete(ctx context.Context) (suite.Outcome, error) {
	before := kadm.Offsets{}
	before.AddOffset(r.Topic, 0, 10, -1)
	deleted, err := r.admin.DeleteRecords(ctx, before)
	if err != nil {
		return suite.Outcome{}, err
	}
	if answer, _ := deleted.Lookup(r.Topic, 0); answer.Err != nil || answer.LowWatermark != 10 {
		return suite.Outcome{}, fmt.Errorf("after deleting what is before 10: %+v", answer)
	}
	starts, err := r.admin.ListStartOffsets(ctx, r.Topic)
	if start, _ := starts.Lookup(r.Topic, 0); err != nil || start.Offset != 10 {
		return suite.Outcome{}, fmt.Errorf("the log starts at %d: %v", start.Offset, err)
	}

	if _, err := r.admin.DeleteGroup(ctx, r.Group); err != nil {
		return suite.Outcome{}, err
	}
	groups, err := r.admin.ListGroups(ctx)
	if _, listed := groups[r.Group]; err != nil || listed {
		return suite.Outcome{}, fmt.Errorf("the group is still listed (or %v)", err)
	}

	answers, err := r.admin.DeleteTopics(ctx, r.Topic, r.IdempotentTopic)
	if err = errors.Join(err, answers.Error()); err != nil {
		return suite.Outcome{}, err
	}
	return suite.Outcome{}, suite.WaitFor("the topics to be gone", func() (bool, error) {
		topics, err := r.admin.ListTopics(ctx)
		return !topics.Has(r.Topic) && !topics.Has(r.IdempotentTopic), err
	})
}
