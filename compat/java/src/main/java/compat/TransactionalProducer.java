package compat;

import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.IntStream;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Commits and aborts transactions over several partitions while brokers are broken, and writes down how each ended: a line
 * {@code partition offset value} for each record once its transaction is committed, {@code aborted number} once nobody can commit it
 * any more, and nothing where it does not know. Ends when its standard input does.
 */
final class TransactionalProducer {
    /** Shorter than some faults, so that some transactions are aborted by the clock. */
    static final int TRANSACTION_TIMEOUT_MS = 15_000;

    private final Map<String, String> options;
    private final PrintWriter log;
    private final Random random;
    /** Of the next transaction. */
    private long number;

    private TransactionalProducer(Map<String, String> options, PrintWriter log) {
        this.options = options;
        this.log = log;
        random = new Random(options.get("name").hashCode());
    }

    static void run(Map<String, String> options) throws Exception {
        AtomicBoolean ended = Suite.inputEnds();
        // By the line: others read along to see who is silent.
        try (PrintWriter log = new PrintWriter(Files.newBufferedWriter(Path.of(options.get("log"))), true)) {
            TransactionalProducer transactional = new TransactionalProducer(options, log);
            while (!ended.get()) {
                try {
                    transactional.produce(ended);
                } catch (KafkaException e) {
                    // What it was in the middle of is decided by the next one's start, one way or the other.
                    System.err.println("a new producer after transaction " + transactional.number + ": " + e);
                    Thread.sleep(200);
                }
            }
        }
        System.exit(0);
    }

    /** One producer, from its start to what it cannot get over. */
    private void produce(AtomicBoolean ended) throws InterruptedException {
        long pauseNanos = 1_000_000_000L / Long.parseLong(options.get("rate"));
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings(options, options.get("name")), new StringSerializer(), new StringSerializer())) {
            producer.initTransactions();
            int partitions = producer.partitionsFor(options.get("topic")).size();
            long next = System.nanoTime();
            while (!ended.get()) {
                List<Integer> places = new ArrayList<>(IntStream.range(0, partitions).boxed().toList());
                Collections.shuffle(places, random);
                int records = 2 + random.nextInt(4);
                transaction(producer, places, records);
                next += records * pauseNanos;
                LockSupport.parkNanos(next - System.nanoTime());
            }
        }
    }

    /** Begins a transaction of so many records, in these partitions in turn, and ends it. */
    private void transaction(KafkaProducer<String, String> producer, List<Integer> partitions, int records)
            throws InterruptedException {
        long t = number++;
        boolean commits = random.nextInt(3) > 0;
        boolean flushes = commits || random.nextBoolean();
        boolean mayBeCommitted = false;
        producer.beginTransaction();
        try {
            List<String> values = new ArrayList<>();
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < records; i++) {
                values.add(options.get("name") + "-" + t + "-" + i + "-" + records);
                // Two neighbours lie in two partitions.
                int partition = partitions.get(i % Math.max(2, partitions.size() / 2));
                sent.add(producer.send(new ProducerRecord<>(options.get("topic"), partition, null, values.get(i))));
            }
            if (flushes) {
                // Why also before a commit: Transactions.commit.
                producer.flush();
            }
            if (!commits) {
                log.println("aborted " + t);
                producer.abortTransaction();
                return;
            }
            mayBeCommitted = true;
            producer.commitTransaction();
            for (int i = 0; i < records; i++) {
                RecordMetadata place = sent.get(i).get();
                log.println(place.partition() + " " + place.offset() + " " + values.get(i));
            }
        } catch (ExecutionException e) {
            throw new IllegalStateException("committed without record " + t, e);
        } catch (KafkaException e) {
            System.err.println("transaction " + t + (mayBeCommitted ? ", committing: " : ": ") + e);
            if (!mayBeCommitted) {
                log.println("aborted " + t);
            }
            // Where the commit has failed in a way that leaves the transaction open, this decides it; where it may be decided
            // already, this fails too.
            producer.abortTransaction();
            log.println("aborted " + t);
        }
    }

    /** Of a producer that outlasts brokers. */
    static Map<String, Object> settings(Map<String, String> options, String transactionalId) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", options.get("bootstrap"));
        settings.put("transactional.id", transactionalId);
        settings.put("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS);
        settings.put("delivery.timeout.ms", 600_000);
        settings.put("max.block.ms", 600_000);
        settings.put("request.timeout.ms", 10_000);
        settings.put("reconnect.backoff.max.ms", 500);
        settings.put("linger.ms", 2);
        return settings;
    }
}
