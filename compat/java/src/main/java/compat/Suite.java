package compat;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;

/** One run: its names and sizes from the command line, and a report line per step for xtask. */
final class Suite {
    final String bootstrap;
    final int records;
    final long baseMs;
    final String topic;
    final String idempotentTopic;
    final String group;
    final int idempotentRecords;

    /** What a step has to say about itself. */
    record Outcome(long records, long bytes, String note) {
        static final Outcome NOTHING = new Outcome(0, 0, "");
    }

    interface Step {
        Outcome run() throws Exception;
    }

    Suite(String client, String[] args) {
        Map<String, String> options = options(args);
        bootstrap = options.get("bootstrap");
        records = Integer.parseInt(options.get("records"));
        baseMs = Long.parseLong(options.get("base-ms"));
        topic = "compat-" + client + "-" + options.get("run");
        idempotentTopic = topic + "-idempotent";
        group = topic + "-group";
        idempotentRecords = Math.max(1000, records / 20);
        Records.checkGenerator();
    }

    /** {@code --name value} pairs. */
    static Map<String, String> options(String[] args) {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i + 1 < args.length; i += 2) {
            options.put(args[i].substring(2), args[i + 1]);
        }
        return options;
    }

    /** Runs a step; a failure is reported and ends the program. */
    void step(String name, Step step) {
        long start = System.nanoTime();
        String verdict = "ok";
        Outcome outcome;
        try {
            outcome = step.run();
        } catch (Exception | AssertionError e) {
            e.printStackTrace();
            verdict = "FAIL";
            outcome = new Outcome(0, 0, e.toString().replaceAll("\\s+", " "));
        }
        System.out.printf(
                "STEP\t%s\t%s\t%d\t%d\t%.2f\t%s%n",
                name,
                verdict,
                outcome.records(),
                outcome.bytes(),
                (System.nanoTime() - start) / 1e9,
                outcome.note());
        if (!verdict.equals("ok")) {
            System.exit(1);
        }
    }

    static void require(boolean condition, String message) {
        if (!condition) {
            throw new AssertionError(message);
        }
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    /** Polls a fact that a broker spreads in its own time (metadata, deletion). */
    static void waitFor(String what, Condition condition) throws Exception {
        long deadline = System.nanoTime() + 60_000_000_000L;
        while (!condition.holds()) {
            require(System.nanoTime() < deadline, what + ": not within 60 s");
            Thread.sleep(50);
        }
    }

    /** Turns true when whoever started this program closes its standard input. */
    static AtomicBoolean inputEnds() {
        AtomicBoolean ended = new AtomicBoolean();
        Thread input = new Thread(() -> {
            untilInputEnds();
            ended.set(true);
        });
        input.setDaemon(true);
        input.start();
        return ended;
    }

    /** Blocks until whoever started this program closes its standard input. */
    private static void untilInputEnds() {
        try {
            while (System.in.read() >= 0) {}
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
