package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"ottla/compat/internal/suite"
)

const sharedRecords = 400

// queue is what two consumers of a share group have done together.
type queue struct {
	accepted    map[string]int
	rejected    map[string]bool
	redelivered int
}

// share has two consumers work on one queue: some records are released once and come back, some are rejected, and each of the
// others is accepted once.
func (r run) share(ctx context.Context) (suite.Outcome, error) {
	topic, group := r.Topic+"-share", r.Topic+"-share-group"
	if _, err := r.admin.CreateTopic(ctx, 1, -1, nil, topic); err != nil {
		return suite.Outcome{}, err
	}
	if err := r.readFromStart(ctx, group); err != nil {
		return suite.Outcome{}, err
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(r.Brokers()...), kgo.DefaultProduceTopic(topic))
	if err != nil {
		return suite.Outcome{}, err
	}
	defer producer.Close()
	var jobs []*kgo.Record
	for i := range sharedRecords {
		jobs = append(jobs, kgo.StringRecord("job-"+strconv.Itoa(i)))
	}
	if err := producer.ProduceSync(ctx, jobs...).FirstErr(); err != nil {
		return suite.Outcome{}, err
	}

	var consumers []*kgo.Client
	for range 2 {
		consumer, err := kgo.NewClient(
			kgo.SeedBrokers(r.Brokers()...),
			kgo.ShareGroup(group),
			kgo.ConsumeTopics(topic),
			kgo.ShareMaxRecords(20),
		)
		if err != nil {
			return suite.Outcome{}, err
		}
		defer consumer.Close()
		consumers = append(consumers, consumer)
	}
	done := queue{accepted: map[string]int{}, rejected: map[string]bool{}}
	if err := suite.WaitFor("all records are done with", func() (bool, error) {
		for _, consumer := range consumers {
			if err := done.work(ctx, consumer); err != nil {
				return false, err
			}
		}
		return len(done.accepted)+len(done.rejected) == sharedRecords, nil
	}); err != nil {
		return suite.Outcome{}, err
	}
	for value, times := range done.accepted {
		if times != 1 || done.rejected[value] {
			return suite.Outcome{}, fmt.Errorf("%s was accepted %d times, rejected: %t", value, times, done.rejected[value])
		}
	}
	if done.redelivered == 0 {
		return suite.Outcome{}, errors.New("nothing that was released came again")
	}
	note := fmt.Sprintf("%d rejected, %d delivered again", len(done.rejected), done.redelivered)
	return suite.Outcome{Records: len(done.accepted), Note: note}, nil
}

// work takes what one poll brings.
func (q *queue) work(ctx context.Context, consumer *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	fetches := consumer.PollRecords(ctx, 20)
	if err := fetches.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	fetches.EachRecord(func(record *kgo.Record) {
		deliveries := record.DeliveryCount()
		switch {
		case record.Offset%10 == 3 && deliveries == 1:
			record.Ack(kgo.AckRelease)
		case record.Offset%25 == 7:
			record.Ack(kgo.AckReject)
			q.rejected[string(record.Value)] = true
		default:
			record.Ack(kgo.AckAccept)
			q.accepted[string(record.Value)]++
		}
		if deliveries > 1 {
			q.redelivered++
		}
	})
	return nil
}

// readFromStart has a share group begin with the first record.
func (r run) readFromStart(ctx context.Context, group string) error {
	const key = "share.auto.offset.reset"
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = key, kadm.StringPtr("earliest")
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	resource.Configs = append(resource.Configs, config)
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	request.Resources = append(request.Resources, resource)
	answer, err := request.RequestWith(ctx, r.client)
	if err != nil {
		return err
	}
	if code := answer.Resources[0].ErrorCode; code != 0 {
		return fmt.Errorf("%s of %s: error %d", key, group, code)
	}
	wanted := kmsg.NewDescribeConfigsRequestResource()
	wanted.ResourceType, wanted.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	wanted.ConfigNames = []string{key}
	question := kmsg.NewPtrDescribeConfigsRequest()
	question.Resources = append(question.Resources, wanted)
	return suite.WaitFor(key+" is earliest", func() (bool, error) {
		answer, err := question.RequestWith(ctx, r.client)
		if err != nil {
			return false, err
		}
		for _, config := range answer.Resources[0].Configs {
			if config.Name == key {
				return config.Value != nil && *config.Value == "earliest", nil
			}
		}
		return false, nil
	})
}
