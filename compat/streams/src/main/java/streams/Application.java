package streams;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;

/**
 * One instance of an application with both kinds of state: orders, counted by a key that they do not lie by (so they go through
 * a topic of the application's own), and orders joined with payments. It runs until it is asked to end.
 */
final class Application {
    /** Longer than any round, so that no record is too late for its window. */
    private static final Duration GRACE = Duration.ofHours(1);

    private static final Duration CLOSE_MAX = Duration.ofSeconds(30);

    private Application() {}

    static void run(Map<String, String> options) throws InterruptedException {
        Topics topics = new Topics(options.get("round"));
        Properties settings = new Properties();
        settings.putAll(Map.of(
                "application.id", topics.application(),
                "bootstrap.servers", options.get("bootstrap"),
                "state.dir", options.get("state"),
                "processing.guarantee", "exactly_once_v2",
                "commit.interval.ms", 200,
                "num.stream.threads", 2,
                "num.standby.replicas", 1,
                // Every count is to be seen.
                "statestore.cache.max.bytes", 0));
        settings.putAll(Map.of(
                "default.key.serde", Serdes.StringSerde.class,
                "default.value.serde", Serdes.StringSerde.class,
                "consumer.auto.offset.reset", "earliest",
                // The shortest that brokers grant: an instance that was killed says no farewell.
                "consumer.session.timeout.ms", 6_000,
                "consumer.heartbeat.interval.ms", 1_000));
        KafkaStreams streams = new KafkaStreams(topology(topics), settings);
        // What Streams cannot get over by itself would be hidden by going on.
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            if (!streams.close(CLOSE_MAX)) {
                System.err.println("not closed after " + CLOSE_MAX);
                Runtime.getRuntime().halt(1);
            }
            Runtime.getRuntime().halt(0);
        }));
        streams.start();
        Thread.currentThread().join();
    }

    private static Topology topology(Topics topics) {
        StreamsBuilder builder = new StreamsBuilder();
        var strings = Serdes.String();
        KStream<String, String> orders = builder.stream(topics.orders(), Consumed.with(strings, strings));
        KStream<String, String> payments = builder.stream(topics.payments(), Consumed.with(strings, strings));
        orders.groupBy((key, order) -> Topics.group(order), Grouped.with("group", strings, strings))
                .aggregate(() -> "0 0", (group, order, tally) -> Topics.add(tally, order), Materialized.as("tallies"))
                .toStream()
                .to(topics.tallies(), Produced.with(strings, strings));
        orders.join(
                        payments,
                        (order, payment) -> order + "+" + payment,
                        JoinWindows.ofTimeDifferenceAndGrace(Topics.WINDOW, GRACE),
                        StreamJoined.with(strings, strings, strings).withName("pairs").withStoreName("pairs"))
                .to(topics.pairs(), Produced.with(strings, strings));
        return builder.build();
    }
}
