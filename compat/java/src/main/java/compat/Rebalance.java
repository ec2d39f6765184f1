package compat;

import static compat.Suite.require;

import java.time.Duration;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.LongSerializer;

/**
 * How long a group takes to take in one more member: from that member's first poll to the moment when each partition has been
 * read anew by whoever owns it in the end. All partitions get records all the time. The client's settings are its defaults
 * but for the protocol. Prints {@code join_ms=MEDIAN join_max_ms=MAX joins=N}.
 */
final class Rebalance {
    private static final Duration SETTLED_WAIT_MAX = Duration.ofSeconds(90);
    private static final Duration POLL = Duration.ofMillis(100);
    private static final long ROUND_EVERY_NS = 100_000_000;
    private static final int NOBODY = -1;

    private final Map<String, String> options;
    private final String topic;
    private final int members;
    /** By partition: who owns it, who has read it anew last, and when that one began to. */
    private final int[] owner;
    private final int[] reader;
    private final long[] readAt;
    /** Records sent before do not count. */
    private long joinedAt;
    private final AtomicBoolean ended = new AtomicBoolean();
    private Throwable failure;

    private Rebalance(Map<String, String> options) {
        this.options = options;
        topic = options.get("topic");
        members = Integer.parseInt(options.get("members"));
        int partitions = Integer.parseInt(options.get("partitions"));
        owner = new int[partitions];
        reader = new int[partitions];
        readAt = new long[partitions];
        Arrays.fill(owner, NOBODY);
        Arrays.fill(reader, NOBODY);
    }

    static void run(Map<String, String> options) throws Exception {
        new Rebalance(options).run(Integer.parseInt(options.get("joins")));
        // A consumer that a failure left behind does not keep the program.
        System.exit(0);
    }

    private void run(int joins) throws Exception {
        Thread feed = thread("feed", this::feed);
        Member[] standing = new Member[members];
        for (int n = 0; n < members; n++) {
            standing[n] = new Member(n);
        }
        awaitSettled(members);
        long[] took = new long[joins];
        for (int n = 0; n < joins; n++) {
            begin();
            Member guest = new Member(members);
            took[n] = awaitSettled(members + 1) / 1_000_000;
            begin();
            guest.leave();
            awaitSettled(members);
        }
        for (Member member : standing) {
            member.leave();
        }
        ended.set(true);
        feed.join();
        Arrays.sort(took);
        System.out.println("join_ms=" + took[joins / 2] + " join_max_ms=" + took[joins - 1] + " joins=" + joins);
    }

    private synchronized void begin() {
        joinedAt = System.nanoTime();
        Arrays.fill(reader, NOBODY);
    }

    /** When the last partition was read anew by its owner, of so many members with equal shares. */
    private synchronized long awaitSettled(int count) throws Exception {
        long begin = System.nanoTime();
        while (!isSettled(count)) {
            require(failure == null, "" + failure);
            require(System.nanoTime() - begin < SETTLED_WAIT_MAX.toNanos(), "not settled: " + count + " members");
            wait(1_000);
        }
        return Arrays.stream(readAt).max().getAsLong() - joinedAt;
    }

    private boolean isSettled(int count) {
        int[] shares = new int[members + 1];
        for (int partition = 0; partition < owner.length; partition++) {
            if (owner[partition] == NOBODY || reader[partition] != owner[partition]) {
                return false;
            }
            shares[owner[partition]]++;
        }
        int least = owner.length / count;
        return Arrays.stream(shares).limit(count).allMatch(share -> share == least || share == least + 1);
    }

    private synchronized void read(int member, ConsumerRecord<byte[], Long> record) {
        int partition = record.partition();
        if (record.value() > joinedAt && reader[partition] != member) {
            reader[partition] = member;
            readAt[partition] = System.nanoTime();
            notifyAll();
        }
    }

    private synchronized void changed(Collection<TopicPartition> partitions, int from, int to) {
        for (TopicPartition partition : partitions) {
            if (from == NOBODY || owner[partition.partition()] == from) {
                owner[partition.partition()] = to;
                reader[partition.partition()] = NOBODY;
            }
        }
    }

    private Thread thread(String name, Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Throwable error) {
                synchronized (this) {
                    failure = error;
                    notifyAll();
                }
            }
        }, name);
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    private interface Work {
        void run() throws Exception;
    }

    /** A record into each partition, ten times a second, with the moment when it was sent. */
    private void feed() throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", options.get("bootstrap"));
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new LongSerializer())) {
            for (long due = System.nanoTime(); !ended.get(); due += ROUND_EVERY_NS) {
                for (int partition = 0; partition < owner.length; partition++) {
                    producer.send(new ProducerRecord<>(topic, partition, null, System.nanoTime()));
                }
                Thread.sleep(Math.max(0, (due + ROUND_EVERY_NS - System.nanoTime()) / 1_000_000));
            }
        }
    }

    /** A consumer on a thread of its own. */
    private final class Member implements ConsumerRebalanceListener {
        private final int number;
        private final AtomicBoolean leaves = new AtomicBoolean();
        private final Thread thread;

        Member(int number) {
            this.number = number;
            thread = thread("member-" + number, this::consume);
        }

        void leave() throws InterruptedException {
            leaves.set(true);
            thread.join();
        }

        private void consume() {
            Map<String, Object> settings = Map.of(
                    "bootstrap.servers", options.get("bootstrap"),
                    "group.id", topic,
                    "group.protocol", options.get("protocol"),
                    "auto.offset.reset", "latest");
            try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new LongDeserializer())) {
                consumer.subscribe(List.of(topic), this);
                while (!leaves.get()) {
                    consumer.poll(POLL).forEach(record -> read(number, record));
                }
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            changed(partitions, NOBODY, number);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            changed(partitions, number, NOBODY);
        }
    }
}
