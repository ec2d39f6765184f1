package streams;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/**
 * The three programs of {@code cargo xtask streams}: {@code feed} writes the input, {@code application} makes the output of it,
 * {@code judge} compares that with what it should be.
 */
public final class Main {
    private Main() {}

    public static void main(String[] args) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int i = 1; i + 1 < args.length; i += 2) {
            options.put(args[i].substring(2), args[i + 1]);
        }
        switch (args[0]) {
            case "feed" -> Feed.run(options);
            case "application" -> Application.run(options);
            case "judge" -> Judge.run(options);
            default -> throw new IllegalArgumentException("there is no program " + Arrays.toString(args));
        }
    }
}
