package compat;

import static compat.Suite.require;

import compat.Suite.Outcome;
import java.time.Duration;
import java.util.BitSet;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * The steps {@code group} and {@code consumer-group}: two members (two threads), with the cooperative classic protocol or with
 * the consumer protocol (KIP-848), and a third that goes on from the committed offsets.
 *
 * <p>The play: A reads a quarter and waits for B. Both read until half is read and B had a share in it. A leaves, B waits
 * until it has every partition and reads to three quarters. Without the waiting a fast reader would be through before
 * the group changes.
 */
final class Group {
    private final Suite suite;
    private final Admin admin;
    private final String group;
    private final Map<String, Object> protocol;
    private final BitSet seen = new BitSet();
    private final Map<String, Integer> taken = new TreeMap<>();
    private int twice;
    private long bytes;
    private volatile boolean bJoined;

    private Group(Suite suite, Admin admin, String group, Map<String, Object> protocol) {
        this.suite = suite;
        this.admin = admin;
        this.group = group;
        this.protocol = protocol;
    }

    static Group classic(Suite suite, Admin admin) {
        return new Group(
                suite,
                admin,
                suite.group,
                Map.of(
                        "heartbeat.interval.ms", 500,
                        "partition.assignment.strategy", CooperativeStickyAssignor.class.getName()));
    }

    static Group consumer(Suite suite, Admin admin) {
        return new Group(suite, admin, suite.group + "-consumer", Map.of("group.protocol", "consumer"));
    }

    Outcome run() throws Exception {
        CompletableFuture<Void> b;
        try (Member a = new Member("A")) {
            while (!reached(1, 4)) {
                a.take();
            }
            b = CompletableFuture.runAsync(this::memberB);
            while (!b.isDone() && !halfIsShared()) {
                a.readWhile(bJoined);
            }
        }
        b.get();

        Map<TopicPartition, OffsetAndMetadata> committed =
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        for (int p = 0; p < Records.PARTITIONS; p++) {
            int partition = p;
            long read = seen.stream().filter(i -> i % Records.PARTITIONS == partition).count();
            require(
                    offset(committed, p) == read,
                    "partition " + p + ": " + read + " records read, " + offset(committed, p) + " committed");
        }

        Map<Integer, Long> first = new HashMap<>();
        try (Member c = new Member("C")) {
            while (!reached(1, 1)) {
                for (ConsumerRecord<byte[], byte[]> record : c.take()) {
                    first.putIfAbsent(record.partition(), record.offset());
                }
            }
        }
        first.forEach((p, offset) -> require(
                offset == offset(committed, p),
                "C started at " + p + "/" + offset + ", committed was " + offset(committed, p)));
        require(twice == 0, twice + " records came twice");
        return new Outcome(suite.records, bytes, taken + " twice=" + twice);
    }

    private void memberB() {
        try (Member b = new Member("B")) {
            while (!(reached(3, 4) && b.assigned.size() == Records.PARTITIONS)) {
                b.readWhile(!halfIsShared() || b.assigned.size() == Records.PARTITIONS);
                bJoined |= !b.assigned.isEmpty();
            }
        }
    }

    private long offset(Map<TopicPartition, OffsetAndMetadata> committed, int partition) {
        OffsetAndMetadata offset = committed.get(new TopicPartition(suite.topic, partition));
        return offset == null ? 0 : offset.offset();
    }

    private synchronized boolean reached(int numerator, int denominator) {
        return seen.cardinality() >= suite.records / denominator * numerator;
    }

    /** Both members read until this holds: the half is read, and B had a share in it. */
    private synchronized boolean halfIsShared() {
        return reached(1, 2) && taken.containsKey("B");
    }

    private synchronized void tally(String member, int i, byte[] value) {
        twice += seen.get(i) ? 1 : 0;
        seen.set(i);
        taken.merge(member, 1, Integer::sum);
        bytes += value == null ? 0 : value.length;
    }

    /** One consumer; it commits what it has taken when it loses partitions and when it leaves. */
    private final class Member implements ConsumerRebalanceListener, AutoCloseable {
        private final String name;
        private final KafkaConsumer<byte[], byte[]> consumer;
        private final Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
        private final Set<TopicPartition> assigned = new HashSet<>();

        Member(String name) {
            this.name = name;
            Map<String, Object> settings = new HashMap<>(Map.of(
                    "bootstrap.servers", suite.bootstrap,
                    "group.id", group,
                    "auto.offset.reset", "earliest",
                    "enable.auto.commit", false,
                    "max.poll.records", 100));
            settings.putAll(protocol);
            consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            consumer.subscribe(List.of(suite.topic), this);
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            System.err.println(name + " is assigned " + partitions);
            assigned.addAll(partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            System.err.println(name + " loses " + partitions);
            commit();
            assigned.removeAll(partitions);
            next.keySet().removeAll(partitions);
        }

        private void commit() {
            if (!next.isEmpty()) {
                consumer.commitSync(next);
            }
        }

        /** Takes what one poll brings. */
        Iterable<ConsumerRecord<byte[], byte[]>> take() {
            var records = consumer.poll(Duration.ofMillis(200));
            for (ConsumerRecord<byte[], byte[]> record : records) {
                tally(name, Records.check(record, suite.baseMs), record.value());
                next.put(
                        new TopicPartition(record.topic(), record.partition()),
                        new OffsetAndMetadata(record.offset() + 1, record.leaderEpoch(), name));
            }
            return records;
        }

        /** Stays in the group in any case, but takes records only if {@code allowed}. */
        void readWhile(boolean allowed) {
            if (allowed) {
                consumer.resume(consumer.paused());
            } else {
                consumer.pause(consumer.assignment());
            }
            take();
        }

        @Override
        public void close() {
            commit();
            consumer.close();
        }
    }
}
