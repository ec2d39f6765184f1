package compat;

import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Produces unique values idempotently while the broker is killed and restarted under it, and writes down every
 * acknowledgement. Ends when its standard input does.
 */
final class CrashProducer {
    private CrashProducer() {}

    static void run(Map<String, String> options) throws Exception {
        String topic = options.get("topic");
        String name = options.get("name");
        long pauseNanos = 1_000_000_000L / Long.parseLong(options.get("rate"));
        AtomicBoolean ended = Suite.inputEnds();

        Map<String, Object> settings = Map.of(
                "bootstrap.servers", options.get("bootstrap"),
                "acks", "all",
                "enable.idempotence", true,
                "delivery.timeout.ms", 600_000,
                "max.block.ms", 600_000,
                "request.timeout.ms", 10_000,
                "reconnect.backoff.max.ms", 500,
                "linger.ms", 2);
        AtomicBoolean failed = new AtomicBoolean();
        // By the line: others read along to see who is silent.
        try (PrintWriter log = new PrintWriter(Files.newBufferedWriter(Path.of(options.get("log"))), true);
                KafkaProducer<String, String> producer =
                        new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            long next = System.nanoTime();
            for (long i = 0; !ended.get() && !failed.get(); i++) {
                String value = value(name, i);
                producer.send(new ProducerRecord<>(topic, "key-" + i % 100, value), (acknowledged, error) -> {
                    if (error == null) {
                        log.println(acknowledged.partition() + " " + acknowledged.offset() + " " + value);
                    } else {
                        // With a delivery timeout of ten minutes an idempotent producer has no business failing.
                        System.err.println(value + ": " + error);
                        failed.set(true);
                    }
                });
                next += pauseNanos;
                LockSupport.parkNanos(next - System.nanoTime());
            }
        }
        System.exit(failed.get() ? 1 : 0);
    }

    /** {@code name-i} and a padding of up to 1,000 dots. */
    private static String value(String name, long i) {
        return name + "-" + i + ".".repeat((int) (i * 7919 % 1000));
    }
}
