package streams;

import java.time.Duration;

/** The topics of one round, and what their records look like. */
record Topics(String round) {
    /** Orders and payments of the same key whose timestamps are not farther apart are a pair. */
    static final Duration WINDOW = Duration.ofMillis(500);

    private static final int GROUPS = 20;

    /** Key {@code k<n>}, value {@code <number>}. */
    String orders() {
        return "orders-" + round;
    }

    /** As orders. */
    String payments() {
        return "payments-" + round;
    }

    /** Key {@code g<n>}, value {@code <count> <sum>}: how many orders the group has, and the sum of their numbers. */
    String tallies() {
        return "tallies-" + round;
    }

    /** Key as of the order, value {@code <order>+<payment>}. */
    String pairs() {
        return "pairs-" + round;
    }

    String application() {
        return "streams-" + round;
    }

    /** Which group an order belongs to, by its value. It says nothing about the partition of the order. */
    static String group(String order) {
        return "g" + Long.parseLong(order) % GROUPS;
    }

    /** A group's tally with one more order. */
    static String add(String tally, String order) {
        int space = tally.indexOf(' ');
        long count = Long.parseLong(tally.substring(0, space));
        long sum = Long.parseLong(tally.substring(space + 1));
        return (count + 1) + " " + (sum + Long.parseLong(order));
    }
}
