package compat;

import static compat.Suite.require;
import static compat.Suite.waitFor;

import compat.Suite.Outcome;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigOp.OpType;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.SharePartitionOffsetInfo;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.consumer.ShareConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * The {@code share} step: two consumers work on one queue, accept, release and reject; locks end, records are given up, and go
 * to a dead-letter topic where the broker knows of these; the group is described, moved and deleted.
 */
final class Shares {
    /** Fewer than there are consumers: they have to share. */
    private static final int PARTITIONS = 1;
    private static final int RECORDS = 400;
    /** The shortest that a broker allows unless it is told otherwise. */
    private static final int LOCK_MS = 15_000;

    private final Suite suite;
    private final Admin admin;
    private final String topic;
    private final String group;
    private final Map<String, Integer> accepted = new HashMap<>();
    private final Set<String> rejected = new HashSet<>();
    private int redelivered = 0;

    Shares(Suite suite, Admin admin) {
        this.suite = suite;
        this.admin = admin;
        topic = suite.topic + "-share";
        group = topic + "-group";
    }

    Outcome run() throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) -1))).all().get();
        configure("share.auto.offset.reset", "earliest");
        configure("share.record.lock.duration.ms", Integer.toString(LOCK_MS));
        configure("share.delivery.count.limit", "2");
        boolean buries = nameDeadLetters();
        together();
        lockEnds();
        if (buries) {
            readDeadLetters();
        }
        moveAndDelete();
        return new Outcome(accepted.size(), 0, rejected.size() + " rejected, " + redelivered + " delivered again");
    }

    private void configure(String key, String value) throws Exception {
        var resource = new ConfigResource(ConfigResource.Type.GROUP, group);
        var set = new AlterConfigOp(new ConfigEntry(key, value), OpType.SET);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(set))).all().get();
        waitFor(key + " is " + value, () -> value.equals(
                admin.describeConfigs(List.of(resource)).all().get().get(resource).get(key).value()));
    }

    private void produce(String prefix, int count) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", suite.bootstrap, "linger.ms", 5);
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < count; i++) {
                producer.send(new ProducerRecord<>(topic, i % PARTITIONS, null, prefix + i));
            }
        }
    }

    private ShareConsumer<String, String> consumer(String mode) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", suite.bootstrap);
        settings.put("group.id", group);
        settings.put("share.acknowledgement.mode", mode);
        settings.put("max.poll.records", 20);
        var consumer = new KafkaShareConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(topic));
        return consumer;
    }

    private static boolean isReleased(ConsumerRecord<String, String> record) {
        return record.offset() % 10 == 3 && record.deliveryCount().orElse((short) 0) == 1;
    }

    /** Two consumers take turns; each record is accepted once, or rejected. */
    private void together() throws Exception {
        produce("job-", RECORDS);
        int[] taken = new int[2];
        try (var a = consumer("explicit");
                var b = consumer("explicit")) {
            List<ShareConsumer<String, String>> both = List.of(a, b);
            waitFor("all records are done with", () -> {
                for (int who = 0; who < both.size(); who++) {
                    var consumer = both.get(who);
                    for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                        taken[who]++;
                        work(consumer, record);
                    }
                    for (var outcome : consumer.commitSync().entrySet()) {
                        require(outcome.getValue().isEmpty(), "acknowledging: " + outcome);
                    }
                }
                return accepted.size() + rejected.size() == RECORDS;
            });
            require(taken[0] > 0 && taken[1] > 0, "one did all the work: " + taken[0] + ", " + taken[1]);
            require(accepted.values().stream().allMatch(times -> times == 1), "accepted twice: " + accepted);
            require(redelivered > 0, "nothing that was released came again");
            var listed = admin.listGroups(ListGroupsOptions.forShareGroups()).all().get().stream()
                    .filter(listing -> listing.groupId().equals(group))
                    .findFirst();
            require(listed.isPresent() && listed.get().type().equals(Optional.of(GroupType.SHARE)), "listed: " + listed);
            var described = admin.describeShareGroups(List.of(group)).all().get().get(group);
            require(described.groupState() == GroupState.STABLE, "described: " + described);
            require(described.members().size() == 2, "described: " + described);
        }
        waitFor("the group is done", () -> offsets().values().stream()
                .allMatch(info -> info.startOffset() == RECORDS / PARTITIONS && info.lag().equals(Optional.of(0L))));
    }

    private void work(ShareConsumer<String, String> consumer, ConsumerRecord<String, String> record) {
        if (isReleased(record)) {
            consumer.acknowledge(record, AcknowledgeType.RELEASE);
        } else if (record.offset() % 25 == 7) {
            consumer.acknowledge(record, AcknowledgeType.REJECT);
            rejected.add(record.value());
        } else {
            if (record.deliveryCount().orElse((short) 0) == 2) {
                redelivered++;
            }
            consumer.acknowledge(record, AcknowledgeType.ACCEPT);
            accepted.merge(record.value(), 1, Integer::sum);
        }
    }

    private Map<TopicPartition, SharePartitionOffsetInfo> offsets() throws Exception {
        var all = admin.listShareGroupOffsets(Map.of(group, new ListShareGroupOffsetsSpec())).all().get();
        return all.get(group);
    }

    /** What one consumer sits on goes to the other when its lock ends, and is given up after the second delivery. */
    private void lockEnds() throws Exception {
        int count = 4;
        produce("late-", count);
        try (var sitting = consumer("explicit");
                var other = consumer("explicit")) {
            List<ConsumerRecord<String, String>> held = new ArrayList<>();
            waitFor("one has records", () -> {
                sitting.poll(Duration.ofMillis(200)).forEach(held::add);
                return !held.isEmpty();
            });
            require(sitting.acquisitionLockTimeoutMs().equals(Optional.of(LOCK_MS)), "another lock duration");
            Set<String> again = new HashSet<>();
            waitFor("the other gets them", () -> {
                for (var record : other.poll(Duration.ofMillis(500))) {
                    boolean isAgain = record.deliveryCount().equals(Optional.of((short) 2));
                    other.acknowledge(record, isAgain ? AcknowledgeType.RELEASE : AcknowledgeType.ACCEPT);
                    if (isAgain) {
                        again.add(record.value());
                    }
                }
                other.commitSync();
                return again.size() == held.size();
            });
            held.forEach(record -> require(again.contains(record.value()), "it did not come again: " + record));
            long end = (RECORDS + count) / PARTITIONS;
            waitFor("they are given up", () -> offsets().values().stream().allMatch(info -> info.startOffset() == end));
        }
    }

    /** Names a topic for what is given up (KIP-1191), unless the broker is older. */
    private boolean nameDeadLetters() throws Exception {
        String enable = "errors.deadletterqueue.group.enable";
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        if (admin.describeConfigs(List.of(resource)).all().get().get(resource).get(enable) == null) {
            return false;
        }
        var letters = new NewTopic("dlq." + topic, PARTITIONS, (short) -1).configs(Map.of(enable, "true"));
        admin.createTopics(List.of(letters)).all().get();
        configure("errors.deadletterqueue.topic.name", "dlq." + topic);
        configure("errors.deadletterqueue.copy.record.enable", "true");
        return true;
    }

    /** Each record that was rejected, or delivered too often, is there, and says why. */
    private void readDeadLetters() throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", suite.bootstrap, "auto.offset.reset", "earliest");
        Map<String, String> causes = new HashMap<>();
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.assign(IntStream.range(0, PARTITIONS).mapToObj(p -> new TopicPartition("dlq." + topic, p)).toList());
            waitFor("dead letters come", () -> {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    var cause = record.headers().lastHeader("__dlq.errors.message");
                    causes.put(record.value(), new String(cause.value(), StandardCharsets.UTF_8));
                }
                return causes.keySet().containsAll(rejected) && causes.size() > rejected.size();
            });
        }
        causes.forEach((value, cause) -> require(
                cause.contains(rejected.contains(value) ? "rejected" : "delivery count"), value + " is there: " + cause));
    }

    /** The offsets of a group without members are moved, and forgotten with it. */
    private void moveAndDelete() throws Exception {
        waitFor("the group is empty", () ->
                admin.describeShareGroups(List.of(group)).all().get().get(group).groupState() == GroupState.EMPTY);
        Map<TopicPartition, Long> starts = new HashMap<>();
        IntStream.range(0, PARTITIONS).forEach(p -> starts.put(new TopicPartition(topic, p), 100L));
        admin.alterShareGroupOffsets(group, starts).all().get();
        require(offsets().values().stream().allMatch(info -> info.startOffset() == 100), "moved: " + offsets());
        Set<String> read = new HashSet<>();
        try (var consumer = consumer("implicit")) {
            waitFor("the rest is read again", () -> {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> {
                    require(record.offset() >= 100, "before where it was moved to: " + record);
                    read.add(record.value());
                });
                return read.size() == RECORDS + 4 - PARTITIONS * 100;
            });
        }
        waitFor("the group is empty again", () ->
                admin.describeShareGroups(List.of(group)).all().get().get(group).groupState() == GroupState.EMPTY);
        admin.deleteShareGroupOffsets(group, Set.of(topic)).all().get();
        require(offsets().isEmpty(), "offsets are left: " + offsets());
        admin.deleteShareGroups(List.of(group)).all().get();
        waitFor("the group is gone", () -> admin.listGroups(ListGroupsOptions.forShareGroups()).all().get().stream()
                .noneMatch(listing -> listing.groupId().equals(group)));
    }
}
