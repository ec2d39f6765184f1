package streams;

import java.io.IOException;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/** Writes an order and a payment at a time until its standard input ends. */
final class Feed {
    private static final int KEYS = 100;
    private static final int PAYMENT_LATE_MS_MAX = 1_000;

    private Feed() {}

    static void run(Map<String, String> options) {
        Topics topics = new Topics(options.get("round"));
        long pauseNanos = 1_000_000_000L / Long.parseLong(options.get("rate"));
        Random random = new Random(Long.parseLong(options.get("seed")));
        AtomicBoolean ended = inputEnds();
        AtomicBoolean failed = new AtomicBoolean();
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", options.get("bootstrap"),
                "acks", "all",
                "enable.idempotence", true,
                "delivery.timeout.ms", 600_000,
                "max.block.ms", 600_000,
                "request.timeout.ms", 10_000,
                "reconnect.backoff.max.ms", 500,
                "linger.ms", 5);
        long sent = 0;
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            long begin = System.currentTimeMillis();
            long next = System.nanoTime();
            for (; !ended.get() && !failed.get(); sent++) {
                // The timestamps are those of an even pace, also when the producer is held up.
                long time = begin + sent * pauseNanos / 1_000_000;
                long later = time + random.nextInt(PAYMENT_LATE_MS_MAX);
                String key = "k" + random.nextInt(KEYS);
                for (ProducerRecord<String, String> record : new ProducerRecord[] {
                    new ProducerRecord<>(topics.orders(), null, time, key, Long.toString(sent)),
                    new ProducerRecord<>(topics.payments(), null, later, key, Long.toString(sent))
                }) {
                    producer.send(record, (acknowledged, error) -> {
                        if (error != null && !failed.getAndSet(true)) {
                            System.err.println(record + ": " + error);
                        }
                    });
                }
                next += pauseNanos;
                LockSupport.parkNanos(next - System.nanoTime());
            }
        }
        System.out.println(sent);
        System.exit(failed.get() ? 1 : 0);
    }

    private static AtomicBoolean inputEnds() {
        AtomicBoolean ended = new AtomicBoolean();
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {}
            } catch (IOException e) {
                System.err.println("standard input: " + e);
            }
            ended.set(true);
        });
        input.setDaemon(true);
        input.start();
        return ended;
    }
}
