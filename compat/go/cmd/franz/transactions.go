package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"ottla/compat/internal/suite"
)

const (
	transactions  = 30
	txnPartitions = 3
)

// transactional makes a producer with a transactional id.
func (r run) transactional(topic, name string) (*kgo.Client, error) {
	return kgo.NewClient(
		kgo.SeedBrokers(r.Brokers()...),
		kgo.DefaultProduceTopic(topic),
		kgo.TransactionalID(r.Topic+"-"+name),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)
}

// transactions is the step of that name.
func (r run) transactions(ctx context.Context) (suite.Outcome, error) {
	source, copied := r.Topic+"-txn", r.Topic+"-txn-copied"
	for _, topic := range []string{source, copied} {
		if _, err := r.admin.CreateTopic(ctx, txnPartitions, -1, nil, topic); err != nil {
			return suite.Outcome{}, err
		}
	}
	committed, err := r.commitAndAbort(ctx, source)
	if err != nil {
		return suite.Outcome{}, err
	}
	if err := r.zombie(ctx, source); err != nil {
		return suite.Outcome{}, err
	}
	committed = append(committed, "after the zombie")
	if err := r.checkRead(ctx, source, committed); err != nil {
		return suite.Outcome{}, err
	}
	loops, err := r.copy(ctx, source, copied, len(committed)*txnPartitions)
	if err != nil {
		return suite.Outcome{}, err
	}
	if err := r.checkRead(ctx, copied, committed); err != nil {
		return suite.Outcome{}, err
	}
	note := fmt.Sprintf("%d transactions, copied in %d more", transactions, loops)
	return suite.Outcome{Records: len(committed) * txnPartitions, Note: note}, nil
}

// sendToEach sends one record to each partition and waits for it.
func sendToEach(ctx context.Context, client *kgo.Client, value string) error {
	var sent []*kgo.Record
	for p := range txnPartitions {
		sent = append(sent, &kgo.Record{Partition: int32(p), Value: fmt.Appendf(nil, "%s/%d", value, p)})
	}
	return client.ProduceSync(ctx, sent...).FirstErr()
}

func (r run) commitAndAbort(ctx context.Context, topic string) ([]string, error) {
	client, err := r.transactional(topic, "a")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var committed []string
	for t := range transactions {
		if err := client.BeginTransaction(); err != nil {
			return nil, err
		}
		value := fmt.Sprint("t", t)
		if err := sendToEach(ctx, client, value); err != nil {
			return nil, err
		}
		commit := kgo.TransactionEndTry(t%3 != 2)
		if err := client.EndTransaction(ctx, commit); err != nil {
			return nil, err
		}
		if commit {
			committed = append(committed, value)
		}
	}
	return committed, nil
}

// zombie is a producer that another one has replaced: it can commit nothing.
func (r run) zombie(ctx context.Context, topic string) error {
	first, err := r.transactional(topic, "b")
	if err != nil {
		return err
	}
	defer first.Close()
	if err := errors.Join(first.BeginTransaction(), sendToEach(ctx, first, "zombie")); err != nil {
		return err
	}
	second, err := r.transactional(topic, "b")
	if err != nil {
		return err
	}
	defer second.Close()
	if err := errors.Join(second.BeginTransaction(), sendToEach(ctx, second, "after the zombie")); err != nil {
		return err
	}
	err = first.EndTransaction(ctx, kgo.TryCommit)
	fenced := errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch)
	if !fenced && !errors.Is(err, kerr.InvalidProducerIDMapping) {
		return fmt.Errorf("a zombie could commit, or was fenced otherwise: %v", err)
	}
	return second.EndTransaction(ctx, kgo.TryCommit)
}

// checkRead requires that whoever reads what is committed sees that and nothing else, in order.
func (r run) checkRead(ctx context.Context, topic string, committed []string) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(r.Brokers()...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	read := make([][]string, txnPartitions)
	for total := 0; total < len(committed)*txnPartitions; {
		err := poll(ctx, client, func(got *kgo.Record) error {
			read[got.Partition] = append(read[got.Partition], string(got.Value))
			total++
			return nil
		})
		if err != nil {
			return err
		}
	}
	for p, values := range read {
		var expected []string
		for _, value := range committed {
			expected = append(expected, fmt.Sprintf("%s/%d", value, p))
		}
		if !slices.Equal(values, expected) {
			return fmt.Errorf("read_committed in %s-%d: %s, not %s", topic, p, strings.Join(values, " "), strings.Join(expected, " "))
		}
	}
	return nil
}

// copy goes from topic to topic, output and position in one transaction; every other try is aborted and done again.
func (r run) copy(ctx context.Context, source, copied string, n int) (int, error) {
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(r.Brokers()...),
		kgo.DefaultProduceTopic(copied),
		kgo.TransactionalID(r.Topic+"-copy"),
		kgo.ConsumerGroup(r.Group+"-txn"),
		kgo.ConsumeTopics(source),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequireStableFetchOffsets(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)
	if err != nil {
		return 0, err
	}
	defer session.Close()
	loops := 0
	for done := 0; done < n; loops++ {
		fetches := session.PollRecords(ctx, 10)
		if err := fetches.Err(); err != nil {
			return 0, err
		}
		if err := session.Begin(); err != nil {
			return 0, err
		}
		var first kgo.FirstErrPromise
		taken := 0
		fetches.EachRecord(func(got *kgo.Record) {
			session.Produce(ctx, &kgo.Record{Partition: got.Partition, Value: got.Value}, first.Promise())
			taken++
		})
		if err := first.Err(); err != nil {
			return 0, err
		}
		committed, err := session.End(ctx, kgo.TransactionEndTry(loops%2 == 1))
		if err != nil {
			return 0, err
		}
		if committed {
			done += taken
		}
	}
	return loops, nil
}
