package compat;

import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Reads a topic as one member of a group, as the Java client comes, and appends one line {@code partition offset number} per
 * record that it has handled. What it has come to it says on standard output; it ends when its standard input does.
 */
final class DeliveryReader {
    private static final Duration IDLE = Duration.ofSeconds(1);

    private final Map<String, String> options;
    private final PrintWriter file;
    private long handled;

    private DeliveryReader(Map<String, String> options, PrintWriter file) {
        this.options = options;
        this.file = file;
    }

    /** {@code --settings k=v,k=v} instead of an option that comes several times. */
    static void run(Map<String, String> options) throws Exception {
        Map<String, Object> settings = new HashMap<>(Map.of(
                "bootstrap.servers", options.get("bootstrap"),
                "group.id", options.get("name"),
                "auto.offset.reset", "earliest"));
        for (String setting : options.getOrDefault("settings", "").split(",")) {
            if (!setting.isEmpty()) {
                String[] parts = setting.split("=", 2);
                settings.put(parts[0], parts[1]);
            }
        }
        Path path = Path.of(options.get("into"));
        try (PrintWriter file = new PrintWriter(
                Files.newBufferedWriter(path, StandardOpenOption.CREATE, StandardOpenOption.APPEND), true)) {
            new DeliveryReader(options, file).read(settings);
        }
        // The worker, if there is one, waits for ever.
        System.exit(0);
    }

    private void read(Map<String, Object> settings) throws Exception {
        AtomicBoolean ended = Suite.inputEnds();
        long closeAfter = number("close-after", Long.MAX_VALUE);
        BlockingQueue<ConsumerRecord<String, String>> queue = null;
        if (options.getOrDefault("queue", "no").equals("yes")) {
            queue = new LinkedBlockingQueue<>();
            startWorker(queue);
        }
        KafkaConsumer<String, String> consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(options.get("topic")));
        boolean isIdle = false;
        long last = System.nanoTime();
        while (!ended.get() && handled < closeAfter) {
            ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(100));
            for (ConsumerRecord<String, String> record : records) {
                if (queue != null) {
                    queue.put(record);
                } else {
                    handle(record);
                }
            }
            if (!records.isEmpty()) {
                last = System.nanoTime();
                isIdle = false;
            } else if (System.nanoTime() - last > IDLE.toNanos() && !isIdle) {
                isIdle = true;
                System.out.println("idle");
            }
        }
        if (closeAfter != Long.MAX_VALUE) {
            consumer.unsubscribe();
        }
        consumer.close();
    }

    private void startWorker(BlockingQueue<ConsumerRecord<String, String>> queue) {
        Thread worker = new Thread(() -> {
            try {
                while (true) {
                    handle(queue.take());
                }
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
        });
        worker.setDaemon(true);
        worker.start();
    }

    private void handle(ConsumerRecord<String, String> record) throws InterruptedException {
        if (handled == number("slow-after", -1)) {
            System.out.println("slow");
            Thread.sleep(number("slow-ms", 0));
            System.out.println("slow no more");
        }
        long delay = number("delay-ms", 0);
        if (delay > 0) {
            Thread.sleep(delay);
        }
        String value = record.value();
        int end = value.indexOf(' ');
        file.println(record.partition() + " " + record.offset() + " " + (end < 0 ? value : value.substring(0, end)));
        handled++;
        if (handled == number("say-after", -1)) {
            System.out.println("so far");
        }
        if (handled >= number("hang-after", Long.MAX_VALUE)) {
            System.out.println("hanging");
            Thread.sleep(Long.MAX_VALUE);
        }
    }

    private long number(String name, long otherwise) {
        return options.containsKey(name) ? Long.parseLong(options.get(name)) : otherwise;
    }
}
