package compat;

import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Reads what is committed in a topic and writes it to the same partition of {@code <topic>-copied}, with its position in the same
 * transaction, while brokers are broken: two members of one group, each with a producer of its own. Writes down a line
 * {@code partition offset value} for each record once its transaction is committed. When its standard input ends it goes on to the
 * end of the topic.
 */
final class TransactionalCopy {
    private static final int MEMBERS = 2;

    private final Map<String, String> options;
    private final PrintWriter log;
    private final AtomicBoolean ended;
    private final int member;
    private final Random random;

    private TransactionalCopy(Map<String, String> options, PrintWriter log, AtomicBoolean ended, int member) {
        this.options = options;
        this.log = log;
        this.ended = ended;
        this.member = member;
        random = new Random(member);
    }

    static void run(Map<String, String> options) throws Exception {
        AtomicBoolean ended = Suite.inputEnds();
        AtomicBoolean failed = new AtomicBoolean();
        try (PrintWriter log = new PrintWriter(Files.newBufferedWriter(Path.of(options.get("log"))), true)) {
            List<Thread> members = new ArrayList<>();
            for (int member = 0; member < MEMBERS; member++) {
                TransactionalCopy copy = new TransactionalCopy(options, log, ended, member);
                Thread thread = new Thread(copy::run);
                thread.setUncaughtExceptionHandler((its, e) -> {
                    e.printStackTrace();
                    failed.set(true);
                    Runtime.getRuntime().halt(1);
                });
                thread.start();
                members.add(thread);
            }
            for (Thread thread : members) {
                thread.join();
            }
        }
        System.exit(failed.get() ? 1 : 0);
    }

    private void run() {
        while (true) {
            try (KafkaConsumer<String, String> consumer =
                            new KafkaConsumer<>(settings(), new StringDeserializer(), new StringDeserializer());
                    KafkaProducer<String, String> producer = new KafkaProducer<>(
                            TransactionalProducer.settings(options, options.get("name") + "-" + member),
                            new StringSerializer(),
                            new StringSerializer())) {
                producer.initTransactions();
                consumer.subscribe(List.of(options.get("topic")));
                copy(consumer, producer);
                return;
            } catch (KafkaException e) {
                // The next one goes on from what is committed, whatever became of this one's transaction.
                System.err.println("member " + member + " begins anew: " + e);
            }
        }
    }

    private Map<String, Object> settings() {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", options.get("bootstrap"));
        settings.put("group.id", options.get("name"));
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", false);
        settings.put("session.timeout.ms", 10_000);
        settings.put("heartbeat.interval.ms", 1_000);
        settings.put("request.timeout.ms", 10_000);
        settings.put("reconnect.backoff.max.ms", 500);
        settings.put("max.poll.records", 100);
        return settings;
    }

    /** Copies until the end, once that is to come. */
    private void copy(KafkaConsumer<String, String> consumer, KafkaProducer<String, String> producer) {
        while (true) {
            List<ConsumerRecord<String, String>> records = new ArrayList<>();
            consumer.poll(Duration.ofMillis(200)).forEach(records::add);
            if (!records.isEmpty()) {
                copy(consumer, producer, records);
            } else if (ended.get() && isAtEnd(consumer)) {
                return;
            }
        }
    }

    /** Whoever has no partition waits for some: there are more than members. */
    private static boolean isAtEnd(KafkaConsumer<String, String> consumer) {
        Map<TopicPartition, Long> ends = consumer.endOffsets(consumer.assignment());
        return !ends.isEmpty()
                && ends.entrySet().stream().allMatch(end -> consumer.position(end.getKey()) >= end.getValue());
    }

    private void copy(
            KafkaConsumer<String, String> consumer,
            KafkaProducer<String, String> producer,
            List<ConsumerRecord<String, String>> records) {
        producer.beginTransaction();
        try {
            Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (ConsumerRecord<String, String> record : records) {
                sent.add(producer.send(new ProducerRecord<>(
                        options.get("topic") + "-copied", record.partition(), null, record.value())));
                positions.put(
                        new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
            }
            producer.sendOffsetsToTransaction(positions, consumer.groupMetadata());
            if (random.nextInt(10) == 0) {
                producer.abortTransaction();
                goBack(consumer);
                return;
            }
            // Why it flushes: Transactions.commit.
            producer.flush();
            producer.commitTransaction();
            synchronized (log) {
                for (int i = 0; i < sent.size(); i++) {
                    RecordMetadata place = sent.get(i).get();
                    log.println(place.partition() + " " + place.offset() + " " + records.get(i).value());
                }
            }
        } catch (ExecutionException | InterruptedException e) {
            throw new IllegalStateException("committed without a record", e);
        } catch (KafkaException e) {
            System.err.println("member " + member + ": " + e);
            producer.abortTransaction();
            goBack(consumer);
        }
    }

    /** To what is committed. */
    private static void goBack(KafkaConsumer<String, String> consumer) {
        consumer.committed(consumer.assignment()).forEach((partition, committed) -> {
            if (committed == null) {
                consumer.seekToBeginning(List.of(partition));
            } else {
                consumer.seek(partition, committed);
            }
        });
    }
}
