// Command move asks one broker to move its replica of a partition to another of its data directories. It does not wait for
// the move's end.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func main() {
	bootstrap := flag.String("bootstrap", "", "host:port of the brokers, with commas between them")
	broker := flag.Int("broker", 0, "id of the broker whose replica is moved")
	topic := flag.String("topic", "", "topic of the partition")
	partition := flag.Int("partition", 0, "number of the partition")
	dir := flag.String("dir", "", "data directory to move to")
	patience := flag.Duration("patience", 2*time.Second, "how long to wait for an answer")
	flag.Parse()
	if err := move(*bootstrap, *broker, *topic, int32(*partition), *dir, *patience); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func move(bootstrap string, broker int, topic string, partition int32, dir string, patience time.Duration) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	moved := kmsg.NewAlterReplicaLogDirsRequestDirTopic()
	moved.Topic = topic
	moved.Partitions = []int32{partition}
	to := kmsg.NewAlterReplicaLogDirsRequestDir()
	to.Dir = dir
	to.Topics = append(to.Topics, moved)
	request := kmsg.NewPtrAlterReplicaLogDirsRequest()
	request.Dirs = append(request.Dirs, to)
	answer, err := client.Broker(broker).RetriableRequest(ctx, request)
	if err != nil {
		return err
	}
	for _, topic := range answer.(*kmsg.AlterReplicaLogDirsResponse).Topics {
		for _, partition := range topic.Partitions {
			if partition.ErrorCode != 0 {
				return fmt.Errorf("%s-%d: error %d", topic.Topic, partition.Partition, partition.ErrorCode)
			}
		}
	}
	return nil
}
