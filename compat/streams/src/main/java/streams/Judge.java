package streams;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.LongSupplier;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Computes from the input what the output has to be, waits for as much of it, and compares. Every count of a group must be there
 * once and in order, each one order more than the last; every pair once.
 */
final class Judge {
    private static final int DIFFERENCES_SHOWN_MAX = 40;

    private final Map<String, Object> settings;
    private final Topics topics;
    private final long deadline;
    private final List<String> differences = new ArrayList<>();

    private Judge(Map<String, String> options) {
        topics = new Topics(options.get("round"));
        deadline = System.nanoTime() + Duration.ofSeconds(Long.parseLong(options.get("patience"))).toNanos();
        settings = Map.of(
                "bootstrap.servers", options.get("bootstrap"),
                "isolation.level", "read_committed",
                "enable.auto.commit", false,
                "reconnect.backoff.max.ms", 500);
    }

    /** Prints what it saw; exits with 1 where the output is not what it should be, after the keys that differ. */
    static void run(Map<String, String> options) {
        Judge judge = new Judge(options);
        long sent = Long.parseLong(options.get("sent"));
        List<ConsumerRecord<String, String>> orders = judge.read(topic -> topic.orders(), () -> sent);
        List<ConsumerRecord<String, String>> payments = judge.read(topic -> topic.payments(), () -> sent);
        judge.compareOnce("order", range(sent), values(orders));
        judge.compareOnce("payment", range(sent), values(payments));
        Map<String, Long> pairs = pairs(orders, payments);
        List<ConsumerRecord<String, String>> tallied = judge.read(topic -> topic.tallies(), orders::size);
        List<ConsumerRecord<String, String>> paired = judge.read(topic -> topic.pairs(), pairs::size);
        judge.compareTallies(orders, tallied);
        judge.compareOnce("pair", pairs, count(paired.stream().map(record -> record.key() + ": " + record.value()).toList()));
        System.out.printf(
                "%d orders and payments, %d counts, %d pairs%n", orders.size(), tallied.size(), paired.size());
        if (!judge.differences.isEmpty()) {
            judge.differences.stream().limit(DIFFERENCES_SHOWN_MAX).forEach(System.out::println);
            System.out.println(judge.differences.size() + " differences");
            System.exit(1);
        }
    }

    private interface Named {
        String of(Topics topics);
    }

    /**
     * What of a topic is committed, up to its end: once that much is there, or time is up. What an unfinished transaction holds
     * back counts as missing.
     */
    private List<ConsumerRecord<String, String>> read(Named named, LongSupplier expected) {
        String topic = named.of(topics);
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer =
                        new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
                KafkaConsumer<String, String> uncommitted = new KafkaConsumer<>(
                        with("isolation.level", "read_uncommitted"), new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                    .map(partition -> new TopicPartition(topic, partition.partition()))
                    .toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            while (true) {
                consumer.poll(Duration.ofMillis(200)).forEach(records::add);
                Map<TopicPartition, Long> ends = uncommitted.endOffsets(partitions);
                List<TopicPartition> open = partitions.stream()
                        .filter(partition -> consumer.position(partition) < ends.get(partition))
                        .toList();
                if (open.isEmpty() && records.size() >= expected.getAsLong()) {
                    return records;
                }
                if (System.nanoTime() > deadline) {
                    if (!open.isEmpty()) {
                        differences.add(topic + ": readers of committed records do not come to the end of " + open);
                    }
                    return records;
                }
            }
        }
    }

    private Map<String, Object> with(String name, Object value) {
        Map<String, Object> changed = new HashMap<>(settings);
        changed.put(name, value);
        return changed;
    }

    private static Map<String, Long> range(long end) {
        Map<String, Long> numbers = new HashMap<>();
        for (long number = 0; number < end; number++) {
            numbers.put(Long.toString(number), 1L);
        }
        return numbers;
    }

    private static Map<String, Long> values(Collection<ConsumerRecord<String, String>> records) {
        return count(records.stream().map(ConsumerRecord::value).toList());
    }

    private static Map<String, Long> count(Collection<String> values) {
        Map<String, Long> counts = new HashMap<>();
        values.forEach(value -> counts.merge(value, 1L, Long::sum));
        return counts;
    }

    /** Every pair that the windows allow, as {@code key: value}. */
    private static Map<String, Long> pairs(
            List<ConsumerRecord<String, String>> orders, List<ConsumerRecord<String, String>> payments) {
        Map<String, TreeMap<Long, List<String>>> byKey = new HashMap<>();
        payments.forEach(payment -> byKey.computeIfAbsent(payment.key(), key -> new TreeMap<>())
                .computeIfAbsent(payment.timestamp(), time -> new ArrayList<>())
                .add(payment.value()));
        long window = Topics.WINDOW.toMillis();
        List<String> pairs = new ArrayList<>();
        for (ConsumerRecord<String, String> order : orders) {
            byKey.getOrDefault(order.key(), new TreeMap<>())
                    .subMap(order.timestamp() - window, true, order.timestamp() + window, true)
                    .values()
                    .forEach(near -> near.forEach(
                            payment -> pairs.add(order.key() + ": " + order.value() + "+" + payment)));
        }
        return count(pairs);
    }

    private void compareOnce(String what, Map<String, Long> expected, Map<String, Long> found) {
        expected.forEach((value, times) -> {
            long seen = found.getOrDefault(value, 0L);
            if (seen != times) {
                differences.add(what + " " + value + " is there " + seen + " times, not " + times);
            }
        });
        found.forEach((value, times) -> {
            if (!expected.containsKey(value)) {
                differences.add(what + " " + value + " is there " + times + " times and should not be");
            }
        });
    }

    private void compareTallies(
            List<ConsumerRecord<String, String>> orders, List<ConsumerRecord<String, String>> tallied) {
        Map<String, String> last = new HashMap<>();
        List<String> counted = new ArrayList<>();
        for (ConsumerRecord<String, String> record : tallied) {
            String[] before = last.getOrDefault(record.key(), "0 0").split(" ");
            String[] after = record.value().split(" ");
            if (Long.parseLong(after[0]) != Long.parseLong(before[0]) + 1) {
                differences.add("group " + record.key() + " at " + record.partition() + "/" + record.offset() + " counts "
                        + after[0] + " behind " + before[0]);
            }
            counted.add(record.key() + ": " + (Long.parseLong(after[1]) - Long.parseLong(before[1])));
            last.put(record.key(), record.value());
        }
        List<String> should = orders.stream()
                .map(order -> Topics.group(order.value()) + ": " + order.value())
                .toList();
        compareOnce("counted order", count(should), count(counted));
    }
}
