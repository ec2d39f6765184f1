// Command crash produces unique values idempotently while the broker is killed and restarted under it, and writes down
// every acknowledgement. It ends when its standard input does.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	bootstrap := flag.String("bootstrap", "", "host:port of the brokers, with commas between them")
	topic := flag.String("topic", "", "topic to produce to")
	name := flag.String("name", "", "first part of every value")
	rate := flag.Int("rate", 500, "records per second")
	path := flag.String("log", "", "file for the acknowledgements")
	flag.Parse()
	if err := produce(*bootstrap, *topic, *name, *rate, *path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func produce(bootstrap, topic, name string, rate int, path string) error {
	// Unbuffered: others read along to see who is silent.
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.DefaultProduceTopic(topic),
		kgo.RecordDeliveryTimeout(10*time.Minute),
		kgo.RetryBackoffFn(func(int) time.Duration { return 200 * time.Millisecond }),
		kgo.ProducerLinger(2*time.Millisecond),
	)
	if err != nil {
		return err
	}
	defer client.Close()

	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	// Promises run one after the other, so the log needs no lock; failed is read by the loop.
	var failed sync.Once
	failure := make(chan error, 1)
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ended:
			if err := client.Flush(context.Background()); err != nil {
				return err
			}
			select {
			case err := <-failure:
				return err
			default:
			}
			return log.Close()
		case err := <-failure:
			return err
		case <-ticker.C:
		}
		value := fmt.Sprintf("%s-%d%s", name, i, strings.Repeat(".", i*7919%1000))
		record := kgo.KeySliceRecord(fmt.Appendf(nil, "key-%d", i%100), []byte(value))
		client.Produce(context.Background(), record, func(got *kgo.Record, err error) {
			if err == nil {
				fmt.Fprintln(log, got.Partition, got.Offset, value)
			} else {
				// With a delivery timeout of ten minutes an idempotent producer has no business failing.
				failed.Do(func() { failure <- fmt.Errorf("%.20s: %w", value, err) })
			}
		})
	}
}
