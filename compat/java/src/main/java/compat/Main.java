package compat;

import static compat.Suite.require;
import static compat.Suite.waitFor;

import compat.Suite.Outcome;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigOp.OpType;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConfigEntry.ConfigSource;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** Apache Kafka's Java client through every step of compat/README.md. */
public final class Main {
    private static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");
    private static final String SEGMENT_BYTES = Integer.toString(4 << 20);
    private static final String RETENTION_MS = Long.toString(Duration.ofDays(3).toMillis());

    private final Suite suite;
    private final Admin admin;

    private Main(Suite suite, Admin admin) {
        this.suite = suite;
        this.admin = admin;
    }

    public static void main(String[] args) throws Exception {
        if (args.length > 0 && !args[0].startsWith("--")) {
            Map<String, String> options = Suite.options(Arrays.copyOfRange(args, 1, args.length));
            switch (args[0]) {
                case "crash-producer" -> CrashProducer.run(options);
                case "transactional-producer" -> TransactionalProducer.run(options);
                case "transactional-copy" -> TransactionalCopy.run(options);
                case "delivery-reader" -> DeliveryReader.run(options);
                case "pulse" -> Pulse.run(options);
                case "load" -> Load.run(options);
                case "rebalance" -> Rebalance.run(options);
                default -> throw new IllegalArgumentException("there is no program " + args[0]);
            }
            return;
        }
        Suite suite = new Suite("java", args);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", suite.bootstrap))) {
            Main main = new Main(suite, admin);
            suite.step("create", main::create);
            for (String codec : CODECS) {
                suite.step("produce:" + codec, () -> main.produce(codec));
            }
            suite.step("offsets", main::offsets);
            suite.step("group", () -> Group.classic(suite, admin).run());
            suite.step("consumer-group", () -> Group.consumer(suite, admin).run());
            suite.step("idempotent", main::idempotent);
            suite.step("transactions", () -> new Transactions(suite, admin).run());
            suite.step("share", () -> new Shares(suite, admin).run());
            suite.step("configs", main::configs);
            suite.step("delete", main::delete);
        }
    }

    private Outcome create() throws Exception {
        NewTopic topic = new NewTopic(suite.topic, Records.PARTITIONS - 1, (short) -1)
                .configs(Map.of("segment.bytes", SEGMENT_BYTES));
        admin.createTopics(List.of(topic)).all().get();
        refused(TopicExistsException.class, () -> admin.createTopics(List.of(topic)).all().get());
        admin.createPartitions(Map.of(suite.topic, NewPartitions.increaseTo(Records.PARTITIONS))).all().get();
        waitFor("6 partitions in the metadata", () -> {
            var described = admin.describeTopics(List.of(suite.topic)).allTopicNames().get();
            return described.get(suite.topic).partitions().size() == Records.PARTITIONS;
        });
        return new Outcome(0, 0, "kafka-clients " + AppInfoParser.getVersion() + ", one partition added later");
    }

    private interface Call {
        void run() throws Exception;
    }

    /** Requires that a call fails for the given reason and no other. */
    private static void refused(Class<? extends Exception> reason, Call call) throws Exception {
        try {
            call.run();
        } catch (ExecutionException e) {
            require(reason.isInstance(e.getCause()), "refused for another reason: " + e.getCause());
            return;
        }
        throw new AssertionError(reason.getSimpleName() + " was expected, but it was accepted");
    }

    private Producer<byte[], byte[]> producer(Map<String, Object> settings) {
        Map<String, Object> all = new HashMap<>(settings);
        all.put("bootstrap.servers", suite.bootstrap);
        all.put("acks", "all");
        return new KafkaProducer<>(all, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private Outcome produce(String codec) throws Exception {
        int at = CODECS.indexOf(codec);
        int from = suite.records * at / CODECS.size();
        int to = suite.records * (at + 1) / CODECS.size();
        List<Future<RecordMetadata>> sent = new ArrayList<>(to - from);
        long bytes = 0;
        try (Producer<byte[], byte[]> producer = producer(Map.of(
                "compression.type", codec,
                "linger.ms", 20,
                "enable.idempotence", false,
                // Without idempotence a retried batch may otherwise land behind its successor.
                "max.in.flight.requests.per.connection", 1))) {
            for (int i = from; i < to; i++) {
                ProducerRecord<byte[], byte[]> record = Records.record(suite.topic, i, suite.baseMs);
                bytes += record.value() == null ? 0 : record.value().length;
                sent.add(producer.send(record));
            }
        }
        for (int i = from; i < to; i++) {
            RecordMetadata acknowledged = sent.get(i - from).get();
            require(
                    acknowledged.partition() == i % Records.PARTITIONS
                            && acknowledged.offset() == i / Records.PARTITIONS,
                    "record " + i + " was acknowledged at " + acknowledged);
        }
        return new Outcome(to - from, bytes, "");
    }

    private List<TopicPartition> partitions(String topic) {
        return IntStream.range(0, Records.PARTITIONS).mapToObj(p -> new TopicPartition(topic, p)).toList();
    }

    private Outcome offsets() throws Exception {
        for (TopicPartition tp : partitions(suite.topic)) {
            long end = Records.endOffset(tp.partition(), suite.records);
            requireOffset(tp, OffsetSpec.earliest(), 0);
            requireOffset(tp, OffsetSpec.latest(), end);
            requireOffset(tp, OffsetSpec.maxTimestamp(), end - 1);
        }
        try (Consumer<byte[], byte[]> consumer = consumer(Map.of())) {
            int n = suite.records;
            for (int i : new int[] {0, 1, n / 3, n / 2 + 1, n - 1, n, n + 5000}) {
                long timestamp = suite.baseMs + 10L * i - 5;
                var asked = partitions(suite.topic).stream().collect(Collectors.toMap(tp -> tp, tp -> timestamp));
                for (Map.Entry<TopicPartition, OffsetAndTimestamp> found :
                        consumer.offsetsForTimes(asked).entrySet()) {
                    int first = i + Math.floorMod(found.getKey().partition() - i, Records.PARTITIONS);
                    Long want = first < n ? (long) (first / Records.PARTITIONS) : null;
                    OffsetAndTimestamp got = found.getValue();
                    require(
                            want == null
                                    ? got == null
                                    : got != null
                                            && got.offset() == want
                                            && got.timestamp() == suite.baseMs + 10L * first,
                            "offset of " + timestamp + " in " + found.getKey() + " is " + got + ", not " + want);
                }
            }
        }
        return Outcome.NOTHING;
    }

    private void requireOffset(TopicPartition tp, OffsetSpec spec, long want) throws Exception {
        long got = admin.listOffsets(Map.of(tp, spec)).partitionResult(tp).get().offset();
        require(got == want, spec.getClass().getSimpleName() + " of " + tp + " is " + got + ", not " + want);
    }

    private Consumer<byte[], byte[]> consumer(Map<String, Object> settings) {
        Map<String, Object> all = new HashMap<>(settings);
        all.put("bootstrap.servers", suite.bootstrap);
        all.put("auto.offset.reset", "earliest");
        all.put("enable.auto.commit", false);
        return new KafkaConsumer<>(all, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private Outcome idempotent() throws Exception {
        int n = suite.idempotentRecords;
        admin.createTopics(List.of(new NewTopic(suite.idempotentTopic, Records.PARTITIONS, (short) -1))).all().get();
        List<Future<RecordMetadata>> sent = new ArrayList<>(n);
        try (Producer<byte[], byte[]> producer =
                producer(Map.of("enable.idempotence", true, "linger.ms", 5, "batch.size", 2000))) {
            for (int i = 0; i < n; i++) {
                sent.add(producer.send(new ProducerRecord<>(
                        suite.idempotentTopic, Records.bytes("key-" + i % 100), Records.bytes("" + i))));
            }
        }
        for (Future<RecordMetadata> each : sent) {
            each.get();
        }
        Set<Integer> seen = new HashSet<>();
        Map<Integer, Integer> last = new HashMap<>();
        try (Consumer<byte[], byte[]> consumer = consumer(Map.of())) {
            consumer.assign(partitions(suite.idempotentTopic));
            while (seen.size() < n) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    int i = Integer.parseInt(new String(record.value()));
                    require(seen.add(i), i + " came twice");
                    Integer before = last.put(record.partition(), i);
                    require(before == null || before < i, i + " came after " + before);
                }
            }
            long inLog = consumer.endOffsets(partitions(suite.idempotentTopic)).values().stream()
                    .mapToLong(Long::longValue)
                    .sum();
            require(inLog == n, "the log holds " + inLog + " records, " + n + " were produced");
        }
        var producers = admin.describeProducers(partitions(suite.idempotentTopic)).all().get();
        long active = producers.values().stream().mapToLong(p -> p.activeProducers().size()).sum();
        require(active == last.size(), active + " producer states for " + last.size() + " partitions used");
        return new Outcome(n, 0, "partitions used=" + last.size());
    }

    private ConfigResource topicResource() {
        return new ConfigResource(ConfigResource.Type.TOPIC, suite.topic);
    }

    private Config described() throws Exception {
        return admin.describeConfigs(List.of(topicResource())).all().get().get(topicResource());
    }

    private void alter(String name, String value, OpType operation) throws Exception {
        var change = new AlterConfigOp(new ConfigEntry(name, value), operation);
        admin.incrementalAlterConfigs(Map.of(topicResource(), List.of(change))).all().get();
    }

    private Outcome configs() throws Exception {
        Config before = described();
        require(before.entries().size() > 20, "only " + before.entries().size() + " settings are described");
        String retention = before.get("retention.ms").value();
        requireSetting("segment.bytes", SEGMENT_BYTES, true);
        requireSetting("retention.ms", retention, false);

        alter("retention.ms", RETENTION_MS, OpType.SET);
        alter("cleanup.policy", "compact", OpType.APPEND);
        requireSetting("retention.ms", RETENTION_MS, true);
        waitFor("cleanup.policy=delete,compact", () -> {
            Set<String> policies = Set.of(described().get("cleanup.policy").value().split(","));
            return policies.equals(Set.of("compact", "delete"));
        });
        refused(InvalidConfigurationException.class, () -> alter("retention.ms", "soon", OpType.SET));
        refused(InvalidConfigurationException.class, () -> alter("no.such.setting", "1", OpType.SET));

        alter("retention.ms", null, OpType.DELETE);
        alter("cleanup.policy", "compact", OpType.SUBTRACT);
        requireSetting("retention.ms", retention, false);

        alter("max.message.bytes", "2000", OpType.SET);
        requireSetting("max.message.bytes", "2000", true);
        try (Producer<byte[], byte[]> producer = producer(Map.of())) {
            var tooLarge = new ProducerRecord<byte[], byte[]>(suite.topic, 0, null, Arrays.copyOf(Records.POOL, 3000));
            refused(RecordTooLargeException.class, () -> producer.send(tooLarge).get());
        }
        alter("max.message.bytes", null, OpType.DELETE);

        String node = admin.describeCluster().controller().get().idString();
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, node);
        int brokerSettings = admin.describeConfigs(List.of(broker)).all().get().get(broker).entries().size();
        require(brokerSettings > 20, "only " + brokerSettings + " broker settings are described");
        return new Outcome(0, 0, before.entries().size() + " settings, broker " + brokerSettings);
    }

    /** Waits for a setting: Apache Kafka acknowledges a change before its broker has taken notice of it. */
    private void requireSetting(String name, String value, boolean topicsOwn) throws Exception {
        waitFor(name + "=" + value + " (the topic's own: " + topicsOwn + ")", () -> {
            ConfigEntry entry = described().get(name);
            return entry.value().equals(value) && topicsOwn == (entry.source() == ConfigSource.DYNAMIC_TOPIC_CONFIG);
        });
    }

    private Outcome delete() throws Exception {
        TopicPartition tp = new TopicPartition(suite.topic, 0);
        var deleted = admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(10)));
        long low = deleted.lowWatermarks().get(tp).get().lowWatermark();
        require(low == 10, "the log starts at " + low + " after deleting what is before 10");
        requireOffset(tp, OffsetSpec.earliest(), 10);

        admin.deleteConsumerGroupOffsets(suite.group, Set.of(tp)).all().get();
        var committed = admin.listConsumerGroupOffsets(suite.group).partitionsToOffsetAndMetadata().get();
        require(committed.get(tp) == null, "the deleted offset is still " + committed.get(tp));
        admin.deleteConsumerGroups(List.of(suite.group)).all().get();
        boolean listed = admin.listGroups().all().get().stream().anyMatch(g -> g.groupId().equals(suite.group));
        require(!listed, "the group is still listed");

        List<String> topics = List.of(suite.topic, suite.idempotentTopic);
        admin.deleteTopics(topics).all().get();
        waitFor("the topics to be gone", () -> {
            Set<String> left = new HashSet<>(admin.listTopics().names().get());
            return !left.removeAll(topics);
        });
        return Outcome.NOTHING;
    }
}
