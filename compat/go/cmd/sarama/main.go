// Command sarama takes IBM/sarama through every step of compat/README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	"ottla/compat/internal/records"
	"ottla/compat/internal/suite"
)

var codecs = []sarama.CompressionCodec{
	sarama.CompressionNone,
	sarama.CompressionGZIP,
	sarama.CompressionSnappy,
	sarama.CompressionLZ4,
	sarama.CompressionZSTD,
}

// run is one run of the suite with its admin client.
type run struct {
	*suite.Suite
	client sarama.Client
	admin  sarama.ClusterAdmin
}

func main() {
	s, err := suite.New("sarama")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	client, err := sarama.NewClient(s.Brokers(), settings())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer admin.Close()
	r := run{s, client, admin}
	s.Step("create", r.create)
	for at, codec := range codecs {
		s.Step("produce:"+codec.String(), func() (suite.Outcome, error) { return r.produce(at) })
	}
	s.Step("offsets", r.offsets)
	s.Step("group", r.group)
	s.Step("idempotent", r.idempotent)
	s.Step("configs", r.configs)
	s.Step("delete", r.delete)
}

func settings() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.ClientID = "compat"
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	return config
}

func (r run) create() (suite.Outcome, error) {
	segmentBytes := suite.SegmentBytes
	detail := &sarama.TopicDetail{
		NumPartitions:     records.Partitions,
		ReplicationFactor: -1,
		ConfigEntries:     map[string]*string{"segment.bytes": &segmentBytes},
	}
	if err := r.admin.CreateTopic(r.Topic, detail, false); err != nil {
		return suite.Outcome{}, err
	}
	err := r.admin.CreateTopic(r.Topic, detail, false)
	if err := suite.Refused("creating twice", err, sarama.ErrTopicAlreadyExists); err != nil {
		return suite.Outcome{}, err
	}
	return suite.Outcome{}, suite.WaitFor("6 partitions in the metadata", func() (bool, error) {
		topics, err := r.admin.DescribeTopics([]string{r.Topic})
		return err == nil && len(topics[0].Partitions) == records.Partitions, err
	})
}

// send produces messages with an asynchronous producer and gives each success to acknowledged.
func (r run) send(
	config *sarama.Config, count int, message func(n int) *sarama.ProducerMessage, acknowledged func(*sarama.ProducerMessage) error,
) error {
	producer, err := sarama.NewAsyncProducer(r.Brokers(), config)
	if err != nil {
		return err
	}
	var first error
	var outcomes sync.WaitGroup
	outcomes.Go(func() {
		for range count {
			var err error
			select {
			case success := <-producer.Successes():
				err = acknowledged(success)
			case failure := <-producer.Errors():
				err = failure.Err
			}
			if first == nil {
				first = err
			}
		}
	})
	for n := range count {
		producer.Input() <- message(n)
	}
	outcomes.Wait()
	return errors.Join(first, producer.Close())
}

func (r run) produce(at int) (suite.Outcome, error) {
	config := settings()
	config.Producer.Compression = codecs[at]
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Flush.Frequency = 20 * time.Millisecond
	// Without idempotence a retried batch may otherwise land behind its successor.
	config.Net.MaxOpenRequests = 1

	from, to := r.Share(at, len(codecs))
	outcome := suite.Outcome{Records: to - from}
	err := r.send(config, to-from, func(n int) *sarama.ProducerMessage {
		record := records.At(from+n, r.BaseMs)
		outcome.Bytes += int64(len(record.Value))
		message := &sarama.ProducerMessage{
			Topic:     r.Topic,
			Partition: record.Partition,
			Timestamp: time.UnixMilli(record.Timestamp),
			Metadata:  record.Offset,
		}
		if record.Key != nil {
			message.Key = sarama.ByteEncoder(record.Key)
		}
		if record.Value != nil {
			message.Value = sarama.ByteEncoder(record.Value)
		}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(header.Key), Value: header.Value})
		}
		return message
	}, func(got *sarama.ProducerMessage) error {
		if got.Offset != got.Metadata.(int64) {
			return fmt.Errorf("acknowledged at %d/%d, not at offset %d", got.Partition, got.Offset, got.Metadata)
		}
		return nil
	})
	return outcome, err
}

func (r run) offsets() (suite.Outcome, error) {
	n := r.Records
	for p := range int32(records.Partitions) {
		if err := r.requireOffset(p, sarama.OffsetOldest, 0); err != nil {
			return suite.Outcome{}, err
		}
		if err := r.requireOffset(p, sarama.OffsetNewest, records.EndOffset(p, n)); err != nil {
			return suite.Outcome{}, err
		}
		for _, lookup := range r.TimeLookups() {
			if err := r.requireOffset(p, lookup.Timestamp, lookup.Offsets[p]); err != nil {
				return suite.Outcome{}, err
			}
		}
	}
	return suite.Outcome{}, nil
}

func (r run) requireOffset(partition int32, time, want int64) error {
	got, err := r.client.GetOffset(r.Topic, partition, time)
	if err == nil && got != want {
		err = fmt.Errorf("offset of %d in %d is %d, not %d", time, partition, got, want)
	}
	return err
}

func (r run) group() (suite.Outcome, error) {
	tally := suite.NewTally(r.Suite)
	ended := make(chan error, 2)
	go func() { ended <- r.member(tally, "A") }()
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
	go func() { ended <- r.member(tally, "B") }()
	for range 2 {
		if err := <-ended; err != nil {
			return suite.Outcome{}, err
		}
	}

	fetched, err := r.admin.ListConsumerGroupOffsets(r.Group, nil)
	if err != nil {
		return suite.Outcome{}, err
	}
	committed := map[int32]int64{}
	for p, block := range fetched.Blocks[r.Topic] {
		committed[p] = max(block.Offset, 0)
	}
	if err := tally.CheckCommitted(committed); err != nil {
		return suite.Outcome{}, err
	}
	if err := r.member(tally, "C"); err != nil {
		return suite.Outcome{}, err
	}
	return tally.Finish(committed)
}

// member is one consumer of the group, called back by sarama with a session per generation and a claim per partition.
type member struct {
	name     string
	tally    *suite.Tally
	assigned atomic.Int32
	failure  atomic.Pointer[error]
}

// member reads in the group until its part is done.
func (r run) member(tally *suite.Tally, name string) error {
	consumer, err := sarama.NewConsumerGroup(r.Brokers(), r.Group, settings())
	if err != nil {
		return err
	}
	m := &member{name: name, tally: tally}
	ctx, leave := context.WithCancel(context.Background())
	go func() {
		for !tally.Done(name, int(m.assigned.Load())) && m.failure.Load() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		leave()
	}()
	for ctx.Err() == nil {
		if err := consumer.Consume(ctx, []string{r.Topic}, m); err != nil && ctx.Err() == nil {
			return err
		}
	}
	if failure := m.failure.Load(); failure != nil {
		return *failure
	}
	return consumer.Close()
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error {
	for _, partitions := range session.Claims() {
		fmt.Fprintln(os.Stderr, m.name, "is assigned", partitions)
		m.assigned.Store(int32(len(partitions)))
		if m.name == "B" && len(partitions) > 0 {
			m.tally.BJoined()
		}
	}
	return nil
}

// Cleanup commits what was taken before the partitions go to somebody else.
func (m *member) Cleanup(session sarama.ConsumerGroupSession) error {
	fmt.Fprintln(os.Stderr, m.name, "loses everything")
	m.assigned.Store(0)
	session.Commit()
	return nil
}

func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		if m.tally.Done(m.name, int(m.assigned.Load())) || session.Context().Err() != nil {
			return nil
		}
		if !m.tally.MayRead(m.name, int(m.assigned.Load())) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		select {
		case <-session.Context().Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		case message, open := <-claim.Messages():
			if !open {
				return nil
			}
			if err := m.tally.Take(m.name, generated(message)); err != nil {
				m.failure.CompareAndSwap(nil, &err)
				return err
			}
			session.MarkMessage(message, m.name)
		}
	}
}

// generated is a record that was read, in the generator's terms.
func generated(got *sarama.ConsumerMessage) records.Record {
	headers := make([]records.Header, 0, len(got.Headers))
	for _, header := range got.Headers {
		headers = append(headers, records.Header{Key: string(header.Key), Value: header.Value})
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

func (r run) idempotent() (suite.Outcome, error) {
	detail := &sarama.TopicDetail{NumPartitions: records.Partitions, ReplicationFactor: -1}
	if err := r.admin.CreateTopic(r.IdempotentTopic, detail, false); err != nil {
		return suite.Outcome{}, err
	}
	config := settings()
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1 // sarama's condition for idempotence
	config.Producer.Flush.MaxMessages = 100
	err := r.send(config, r.IdempotentRecords, func(n int) *sarama.ProducerMessage {
		return &sarama.ProducerMessage{
			Topic: r.IdempotentTopic,
			Key:   sarama.StringEncoder(fmt.Sprint("key-", n%100)),
			Value: sarama.StringEncoder(fmt.Sprint(n)),
		}
	}, func(*sarama.ProducerMessage) error { return nil })
	if err != nil {
		return suite.Outcome{}, err
	}

	consumer, err := sarama.NewConsumer(r.Brokers(), settings())
	if err != nil {
		return suite.Outcome{}, err
	}
	defer consumer.Close()
	once := suite.NewInOrderOnce(r.IdempotentRecords)
	inLog := int64(0)
	for p := range int32(records.Partitions) {
		end, err := r.client.GetOffset(r.IdempotentTopic, p, sarama.OffsetNewest)
		if err != nil {
			return suite.Outcome{}, err
		}
		inLog += end
		if end == 0 {
			continue
		}
		partition, err := consumer.ConsumePartition(r.IdempotentTopic, p, sarama.OffsetOldest)
		if err != nil {
			return suite.Outcome{}, err
		}
		for message := range partition.Messages() {
			if err := once.Take(p, message.Value); err != nil {
				return suite.Outcome{}, err
			}
			if message.Offset+1 == end {
				break
			}
		}
		if err := partition.Close(); err != nil {
			return suite.Outcome{}, err
		}
	}
	if !once.Complete() {
		return suite.Outcome{}, errors.New("records are missing in the log")
	}
	return once.Finish(inLog)
}

// setting is the described value of one setting and whether it is the topic's own.
func (r run) setting(name string) (value string, own bool, described int, err error) {
	all, err := r.admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: r.Topic})
	if err != nil {
		return "", false, 0, err
	}
	for _, entry := range all {
		if entry.Name == name {
			return entry.Value, entry.Source == sarama.SourceTopic, len(all), nil
		}
	}
	return "", false, 0, fmt.Errorf("%s is not described", name)
}

// requireSetting waits for a setting: Apache Kafka acknowledges a change before its broker has taken notice of it.
func (r run) requireSetting(name, value string, own bool) error {
	return suite.WaitFor(fmt.Sprintf("%s=%s (the topic's own: %t)", name, value, own), func() (bool, error) {
		gotValue, gotOwn, _, err := r.setting(name)
		return gotValue == value && gotOwn == own, err
	})
}

func (r run) alter(operation sarama.IncrementalAlterConfigsOperation, name, value string) error {
	entry := sarama.IncrementalAlterConfigsEntry{Operation: operation}
	if operation != sarama.IncrementalAlterConfigsOperationDelete {
		entry.Value = &value
	}
	entries := map[string]sarama.IncrementalAlterConfigsEntry{name: entry}
	return r.admin.IncrementalAlterConfig(sarama.TopicResource, r.Topic, entries, false)
}

func (r run) configs() (suite.Outcome, error) {
	const set, unset = sarama.IncrementalAlterConfigsOperationSet, sarama.IncrementalAlterConfigsOperationDelete
	before, _, described, err := r.setting("retention.ms")
	if err == nil && described <= 20 {
		err = fmt.Errorf("only %d settings are described", described)
	}
	if err != nil {
		return suite.Outcome{}, err
	}
	for _, do := range []func() error{
		func() error { return r.requireSetting("segment.bytes", suite.SegmentBytes, true) },
		func() error { return r.requireSetting("retention.ms", before, false) },
		func() error { return r.alter(set, "retention.ms", suite.RetentionMs) },
		func() error { return r.requireSetting("retention.ms", suite.RetentionMs, true) },
		func() error {
			return suite.Refused("retention.ms=soon", r.alter(set, "retention.ms", "soon"), sarama.ErrInvalidConfig)
		},
		func() error { return r.alter(unset, "retention.ms", "") },
		func() error { return r.requireSetting("retention.ms", before, false) },
		func() error { return r.alter(set, "max.message.bytes", "2000") },
		func() error { return r.requireSetting("max.message.bytes", "2000", true) },
		r.tooLarge,
		func() error { return r.alter(unset, "max.message.bytes", "") },
	} {
		if err := do(); err != nil {
			return suite.Outcome{}, err
		}
	}
	return suite.Outcome{Note: fmt.Sprint(described, " settings")}, nil
}

// tooLarge requires that max.message.bytes binds at once.
func (r run) tooLarge() error {
	message := &sarama.ProducerMessage{Topic: r.Topic, Value: sarama.ByteEncoder(records.Pool[:3000])}
	err := r.send(
		settings(), 1,
		func(int) *sarama.ProducerMessage { return message },
		func(*sarama.ProducerMessage) error { return nil },
	)
	return suite.Refused("3,000 bytes past max.message.bytes=2000", err, sarama.ErrMessageSizeTooLarge)
}

func (r run) delete() (suite.Outcome, error) {
	if err := r.admin.DeleteRecords(r.Topic, map[int32]int64{0: 10}); err != nil {
		return suite.Outcome{}, err
	}
	if err := r.requireOffset(0, sarama.OffsetOldest, 10); err != nil {
		return suite.Outcome{}, err
	}

	if err := r.admin.DeleteConsumerGroup(r.Group); err != nil {
		return suite.Outcome{}, err
	}
	groups, err := r.admin.ListConsumerGroups()
	if _, listed := groups[r.Group]; err != nil || listed {
		return suite.Outcome{}, fmt.Errorf("the group is still listed (or %v)", err)
	}

	for _, topic := range []string{r.Topic, r.IdempotentTopic} {
		if err := r.admin.DeleteTopic(topic); err != nil {
			return suite.Outcome{}, err
		}
	}
	return suite.Outcome{}, suite.WaitFor("the topics to be gone", func() (bool, error) {
		topics, err := r.admin.ListTopics()
		_, first := topics[r.Topic]
		_, second := topics[r.IdempotentTopic]
		return !first && !second, err
	})
}
