package compat;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.IntStream;
import org.HdrHistogram.ConcurrentHistogram;
import org.HdrHistogram.Histogram;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The loads that {@code load} of bench/librdkafka and {@code ottla bench} have as well: records as fast as they go to the
 * partitions in turn, all partitions read without a group, and a steady rate whose records are timed from when they were
 * due. Figures are one line of {@code name=value} words. A setting is an option {@code --set} of {@code name=value,…}.
 */
final class Load {
    private static final Duration SILENCE_MAX = Duration.ofSeconds(30);
    private static final long MICROS_MAX = 3_600_000_000L;

    private final Map<String, String> options;
    private final String topic;
    private final int partitions;

    private Load(Map<String, String> options) {
        this.options = options;
        this.topic = options.get("topic");
        this.partitions = number("partitions");
    }

    static void run(Map<String, String> options) throws Exception {
        Load load = new Load(options);
        switch (options.get("do")) {
            case "produce" -> load.produce();
            case "consume" -> load.consume();
            case "latency" -> load.latency();
            default -> throw new IllegalArgumentException("--do is produce, consume or latency");
        }
    }

    private int number(String name) {
        return Integer.parseInt(options.get(name));
    }

    private Map<String, Object> settings() {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", options.get("bootstrap"));
        for (String pair : options.getOrDefault("set", "").split(",")) {
            if (!pair.isEmpty()) {
                settings.put(pair.substring(0, pair.indexOf('=')), pair.substring(pair.indexOf('=') + 1));
            }
        }
        return settings;
    }

    private KafkaProducer<byte[], byte[]> producer() {
        return new KafkaProducer<>(settings(), new ByteArraySerializer(), new ByteArraySerializer());
    }

    private KafkaConsumer<byte[], byte[]> consumer() {
        Map<String, Object> settings = settings();
        settings.put("enable.auto.commit", false);
        KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        List<TopicPartition> all =
                IntStream.range(0, partitions).mapToObj(p -> new TopicPartition(topic, p)).toList();
        consumer.assign(all);
        consumer.seekToBeginning(all);
        return consumer;
    }

    private byte[] value() {
        return java.util.Arrays.copyOf(Records.POOL, number("size"));
    }

    private static void print(long records, long bytes, long nanos) {
        double seconds = nanos / 1e9;
        System.out.printf("records=%d seconds=%.4f mb_per_s=%.2f%n", records, seconds, bytes / 1e6 / seconds);
    }

    private void produce() {
        int records = number("records");
        byte[] value = value();
        AtomicLong failed = new AtomicLong();
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            producer.partitionsFor(topic);
            long begin = System.nanoTime();
            for (int n = 0; n < records; n++) {
                producer.send(new ProducerRecord<>(topic, n % partitions, null, value), (at, error) -> {
                    if (error != null) {
                        failed.incrementAndGet();
                    }
                });
            }
            producer.flush();
            long nanos = System.nanoTime() - begin;
            Suite.require(failed.get() == 0, failed + " records were not acknowledged");
            print(records, (long) records * value.length, nanos);
        }
    }

    private void consume() {
        int expected = number("records");
        long records = 0;
        long bytes = 0;
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            long begin = System.nanoTime();
            while (records < expected) {
                var polled = consumer.poll(SILENCE_MAX);
                Suite.require(!polled.isEmpty(), records + " of " + expected + " records, then silence");
                for (ConsumerRecord<byte[], byte[]> record : polled) {
                    records++;
                    bytes += record.value().length;
                }
            }
            print(records, bytes, System.nanoTime() - begin);
        }
    }

    /** The topic is fresh. A record's first bytes say when it was due, in nanoseconds of this process's clock. */
    private void latency() throws Exception {
        long rate = number("rate");
        long warmUp = 2 * rate;
        long records = warmUp + number("seconds") * rate;
        Histogram delays = new ConcurrentHistogram(MICROS_MAX, 3);
        Histogram acknowledged = new ConcurrentHistogram(MICROS_MAX, 3);
        AtomicLong failed = new AtomicLong();
        Thread reader = new Thread(() -> {
            try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
                for (long seen = 0; seen < records; ) {
                    var polled = consumer.poll(SILENCE_MAX);
                    long now = System.nanoTime();
                    Suite.require(!polled.isEmpty(), seen + " of " + records + " records, then silence");
                    for (ConsumerRecord<byte[], byte[]> record : polled) {
                        ByteBuffer stamp = ByteBuffer.wrap(record.value());
                        long due = stamp.getLong();
                        seen++;
                        if (stamp.getLong() >= warmUp) {
                            delays.recordValue(Math.max(0, now - due) / 1_000);
                        }
                    }
                }
            }
        });
        reader.setUncaughtExceptionHandler((thread, error) -> {
            error.printStackTrace();
            System.exit(1);
        });
        reader.start();
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            producer.partitionsFor(topic);
            long begin = System.nanoTime();
            for (long n = 0; n < records; n++) {
                long number = n;
                long due = begin + n * 1_000_000_000 / rate;
                for (long wait; (wait = due - System.nanoTime()) > 0; ) {
                    LockSupport.parkNanos(wait);
                }
                byte[] value = value();
                ByteBuffer.wrap(value).putLong(due).putLong(n);
                producer.send(new ProducerRecord<>(topic, (int) (n % partitions), null, value), (at, error) -> {
                    if (error != null) {
                        failed.incrementAndGet();
                    } else if (number >= warmUp) {
                        acknowledged.recordValue(Math.max(0, System.nanoTime() - due) / 1_000);
                    }
                });
            }
        }
        reader.join();
        Suite.require(failed.get() == 0, failed + " records were not acknowledged");
        System.out.printf(
                "records=%d p50_ms=%.3f p99_ms=%.3f ack_p50_ms=%.3f ack_p99_ms=%.3f%n",
                delays.getTotalCount(),
                delays.getValueAtPercentile(50) / 1e3,
                delays.getValueAtPercentile(99) / 1e3,
                acknowledged.getValueAtPercentile(50) / 1e3,
                acknowledged.getValueAtPercentile(99) / 1e3);
    }
}
