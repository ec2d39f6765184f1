package compat;

import static compat.Suite.require;
import static compat.Suite.waitFor;

import compat.Suite.Outcome;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** The {@code transactions} step: commits and aborts, a fenced zombie, one that died, and a loop from topic to topic. */
final class Transactions {
    private static final int PARTITIONS = 3;
    private static final int TRANSACTIONS = 60;

    private final Suite suite;
    private final Admin admin;
    private final String topic;
    private final String copied;
    private final String group;
    private final List<String> committed = new ArrayList<>();

    Transactions(Suite suite, Admin admin) {
        this.suite = suite;
        this.admin = admin;
        topic = suite.topic + "-txn";
        copied = topic + "-copied";
        group = topic + "-group";
    }

    Outcome run() throws Exception {
        admin.createTopics(List.of(
                        new NewTopic(topic, PARTITIONS, (short) -1), new NewTopic(copied, PARTITIONS, (short) -1)))
                .all()
                .get();
        commitAndAbort();
        zombie();
        checkRead();
        int loops = copy();
        return new Outcome(committed.size(), 0, TRANSACTIONS + " transactions, copied in " + loops + " more");
    }

    private KafkaProducer<String, String> producer(String id) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", suite.bootstrap);
        settings.put("transactional.id", topic + "-" + id);
        settings.put("linger.ms", 5);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private KafkaConsumer<String, String> consumer(String isolation) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", suite.bootstrap);
        settings.put("group.id", group);
        settings.put("isolation.level", isolation);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", false);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static List<TopicPartition> partitions(String topic) {
        return IntStream.range(0, PARTITIONS).mapToObj(p -> new TopicPartition(topic, p)).toList();
    }

    private void send(KafkaProducer<String, String> producer, String value) {
        for (int p = 0; p < PARTITIONS; p++) {
            producer.send(new ProducerRecord<>(topic, p, null, value + "/" + p));
        }
    }

    /** Every third transaction is aborted, some of them before anything was sent. */
    private void commitAndAbort() {
        try (KafkaProducer<String, String> producer = producer("a")) {
            producer.initTransactions();
            for (int t = 0; t < TRANSACTIONS; t++) {
                producer.beginTransaction();
                if (t % 12 != 5) {
                    send(producer, "t" + t);
                }
                if (t % 3 == 2) {
                    if (t % 2 == 0) {
                        producer.flush();
                    }
                    producer.abortTransaction();
                } else {
                    commit(producer);
                    keep("t" + t);
                }
            }
        }
    }

    /**
     * Flushes first, for the sake of a race in the client (4.3.1). Its I/O thread (Sender.maybeSendAndPollTransactionalRequest) looks
     * whether batches are left and then calls TransactionManager.nextRequest with the answer, which is synchronized: it may wait there
     * while another thread begins a transaction, sends and commits. Then it takes the EndTxn with an answer from before the sends, and
     * sends it ahead of their records. A broker with the newer protocol, to which the records alone say that a transaction has begun,
     * can only answer INVALID_TXN_STATE, after which the producer is of no more use. Apache Kafka answers the same: on a busy machine
     * it was seen once in 30,000 such commits, and whoever holds the monitor of the TransactionManager until the I/O thread is blocked
     * in nextRequest gets there every time, with either broker.
     */
    private static void commit(KafkaProducer<String, String> producer) {
        producer.flush();
        producer.commitTransaction();
    }

    private void keep(String value) {
        for (int p = 0; p < PARTITIONS; p++) {
            committed.add(value + "/" + p);
        }
    }

    /** A producer that another one has replaced can write nothing; what one left open that died is aborted. */
    private void zombie() throws Exception {
        String id = topic + "-b";
        try (KafkaProducer<String, String> first = producer("b");
                KafkaProducer<String, String> second = producer("b")) {
            first.initTransactions();
            first.beginTransaction();
            send(first, "zombie");
            first.flush();
            waitFor("the open transaction is listed", () -> admin.listTransactions().all().get().stream()
                    .anyMatch(listed -> listed.transactionalId().equals(id)
                            && listed.state() == TransactionState.ONGOING));
            var described = admin.describeTransactions(List.of(id)).description(id).get();
            require(described.topicPartitions().size() == PARTITIONS, "described: " + described);
            var partition = new TopicPartition(topic, 0);
            var producers = admin.describeProducers(List.of(partition)).partitionResult(partition).get();
            require(
                    producers.activeProducers().stream()
                            .anyMatch(state -> state.currentTransactionStartOffset().isPresent()),
                    "no producer has a transaction open: " + producers);
            second.initTransactions();
            try {
                first.commitTransaction();
                throw new AssertionError("a zombie could commit");
            } catch (ProducerFencedException | InvalidProducerEpochException expected) {
                // As it should be.
            } catch (KafkaException e) {
                require(e.getCause() instanceof ProducerFencedException, "fenced otherwise: " + e);
            }
            second.beginTransaction();
            send(second, "after the zombie");
            commit(second);
            keep("after the zombie");
        }
    }

    /** Whoever reads what is committed sees that and nothing else, in order; others see more. */
    private void checkRead() throws Exception {
        for (int p = 0; p < PARTITIONS; p++) {
            String suffix = "/" + p;
            List<String> expected =
                    committed.stream().filter(value -> value.endsWith(suffix)).toList();
            List<String> read = readAll(new TopicPartition(topic, p), "read_committed");
            require(read.equals(expected), "read_committed in partition " + p + ": " + read + ", not " + expected);
            List<String> all = readAll(new TopicPartition(topic, p), "read_uncommitted");
            require(all.contains("zombie/" + p) && all.size() > expected.size(), "read_uncommitted: " + all);
        }
    }

    private List<String> readAll(TopicPartition partition, String isolation) throws Exception {
        List<String> values = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = consumer(isolation)) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            waitFor("the end of " + partition, () -> {
                consumer.poll(Duration.ofMillis(100)).forEach(record -> values.add(record.value()));
                return consumer.position(partition) >= consumer.endOffsets(List.of(partition)).get(partition);
            });
        }
        return values;
    }

    /** From topic to topic, output and position in one transaction; every other try is aborted and done again. */
    private int copy() throws Exception {
        int loops = 0;
        int done = 0;
        try (KafkaConsumer<String, String> consumer = consumer("read_committed");
                KafkaProducer<String, String> producer = producer("copy")) {
            producer.initTransactions();
            consumer.subscribe(List.of(topic));
            long deadline = System.nanoTime() + 120_000_000_000L;
            while (done < committed.size()) {
                require(System.nanoTime() < deadline, "copied " + done + " of " + committed.size() + " in 120 s");
                var records = consumer.poll(Duration.ofMillis(100));
                if (records.isEmpty()) {
                    continue;
                }
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                Map<TopicPartition, Long> began = new HashMap<>();
                int taken = 0;
                for (ConsumerRecord<String, String> record : records) {
                    TopicPartition from = new TopicPartition(record.topic(), record.partition());
                    began.putIfAbsent(from, record.offset());
                    if (taken == 20) {
                        continue;
                    }
                    taken++;
                    producer.send(new ProducerRecord<>(copied, record.partition(), null, record.value()));
                    offsets.put(from, new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                boolean aborts = loops++ % 2 == 0;
                if (aborts) {
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                    done += taken;
                }
                // Back to what is committed, or to what was not taken yet.
                began.forEach((partition, from) -> {
                    OffsetAndMetadata taken1 = offsets.get(partition);
                    consumer.seek(partition, aborts || taken1 == null ? from : taken1.offset());
                });
            }
        }
        for (int p = 0; p < PARTITIONS; p++) {
            String suffix = "/" + p;
            List<String> expected =
                    committed.stream().filter(value -> value.endsWith(suffix)).toList();
            List<String> read = readAll(new TopicPartition(copied, p), "read_committed");
            require(read.equals(expected), "copied in partition " + p + ": " + read + ", not " + expected);
        }
        var positions = admin.listConsumerGroupOffsets(group)
                .partitionsToOffsetAndMetadata()
                .get();
        try (KafkaConsumer<String, String> consumer = consumer("read_committed")) {
            for (TopicPartition partition : partitions(topic)) {
                consumer.assign(List.of(partition));
                consumer.seek(partition, positions.get(partition).offset());
                require(consumer.poll(Duration.ofMillis(300)).isEmpty(), "the position of " + partition + " is behind");
            }
        }
        return loops;
    }
}
