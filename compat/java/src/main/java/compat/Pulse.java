package compat;

import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * A steady pulse, as {@code load pulse} of bench/librdkafka has it: one record after the other at a fixed rate, the
 * partitions in turn, and a line for each that is acknowledged ({@code ack PARTITION DUE DONE}) or given up ({@code error
 * PARTITION DUE DONE REASON}), in microseconds since 1970. The client's settings are its defaults. Ends when its standard
 * input does.
 */
final class Pulse {
    private Pulse() {}

    static void run(Map<String, String> options) throws Exception {
        String topic = options.get("topic");
        int partitions = Integer.parseInt(options.get("partitions"));
        long rate = Long.parseLong(options.get("rate"));
        byte[] value = new byte[Integer.parseInt(options.get("size"))];
        AtomicBoolean ended = Suite.inputEnds();

        Map<String, Object> settings = Map.of("bootstrap.servers", options.get("bootstrap"), "acks", "all");
        // By the line: who reads along waits for the next acknowledgement.
        PrintStream out = new PrintStream(new BufferedOutputStream(System.out), true);
        try (KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.partitionsFor(topic);
            long begin = System.nanoTime();
            long beginMicros = unixMicros();
            for (long sent = 0; !ended.get(); sent++) {
                long dueMicros = sent * 1_000_000 / rate;
                for (long wait; (wait = begin + dueMicros * 1_000 - System.nanoTime()) > 0; ) {
                    LockSupport.parkNanos(wait);
                }
                int partition = (int) (sent % partitions);
                String told = partition + " " + (beginMicros + dueMicros) + " ";
                producer.send(new ProducerRecord<>(topic, partition, null, value), (acknowledged, error) -> {
                    String done = told + unixMicros();
                    out.println(error == null ? "ack " + done : "error " + done + " " + error);
                });
            }
        }
        System.exit(0);
    }

    private static long unixMicros() {
        return ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now());
    }
}
