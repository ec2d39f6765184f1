package compat;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;

/**
 * The records that every client writes and checks (compat/README.md, "The records"). Record {@code i} is a pure
 * function of {@code i}.
 */
final class Records {
    static final int PARTITIONS = 6;
    static final byte[] POOL = pool();
    private static final String CHECKSUM = "b305a75994f132ff9d617daf0c5694daf52fa1d3662c5c7737b6b2a1815e6646";

    private Records() {}

    static int mix(int x) {
        x ^= x >>> 16;
        x *= 0x85ebca6b;
        x ^= x >>> 13;
        x *= 0xc2b2ae35;
        return x ^ x >>> 16;
    }

    private static byte[] pool() {
        ByteBuffer pool = ByteBuffer.allocate(1 << 21).order(ByteOrder.LITTLE_ENDIAN);
        int x = 0x9e3779b9;
        for (int w = 0; pool.hasRemaining(); w++) {
            if (w / 16 % 2 == 1) {
                pool.putInt(pool.getInt(w % 16 * 4));
            } else {
                x ^= x << 13;
                x ^= x >>> 17;
                x ^= x << 5;
                pool.putInt(x);
            }
        }
        return pool.array();
    }

    static byte[] value(int i) {
        int h = mix(i + 0x5eed);
        int g = mix(h + 1);
        int kind = Integer.remainderUnsigned(h, 1000);
        int size;
        if (i % 2500 == 0) {
            size = 921600;
        } else if (kind < 50) {
            return i % 2 == 0 && i % 13 != 0 ? null : new byte[0];
        } else if (kind < 650) {
            size = 1 + Integer.remainderUnsigned(g, 200);
        } else if (kind < 950) {
            size = 200 + Integer.remainderUnsigned(g, 1800);
        } else if (kind < 994) {
            size = 2000 + Integer.remainderUnsigned(g, 18000);
        } else if (kind < 999) {
            size = 20000 + Integer.remainderUnsigned(g, 80000);
        } else {
            size = 100000 + Integer.remainderUnsigned(g, 821601);
        }
        int start = mix(h + 2) & (1 << 20) - 1;
        byte[] value = Arrays.copyOfRange(POOL, start, start + size);
        if (size >= 4) {
            ByteBuffer.wrap(value).order(ByteOrder.LITTLE_ENDIAN).putInt(i);
        }
        return value;
    }

    static byte[] key(int i) {
        return switch (i % 13) {
            case 0 -> null;
            case 1 -> new byte[0];
            default -> bytes("key-" + i % 1000);
        };
    }

    static List<Header> headers(int i) {
        Header number = new RecordHeader("i", bytes(Integer.toString(i)));
        return switch (i % 5) {
            case 0 -> List.of(
                    number,
                    new RecordHeader("dup", new byte[0]),
                    new RecordHeader("dup", bytes("second")),
                    new RecordHeader("nil", (byte[]) null));
            case 1 -> List.of(number, new RecordHeader("bytes", new byte[] {0, (byte) 0xff, (byte) 0x80}));
            default -> List.of(number);
        };
    }

    static ProducerRecord<byte[], byte[]> record(String topic, int i, long baseMs) {
        return new ProducerRecord<>(topic, i % PARTITIONS, baseMs + 10L * i, key(i), value(i), headers(i));
    }

    /** Which record this is, by its first header; throws if it is not exactly what the generator says. */
    static int check(ConsumerRecord<byte[], byte[]> got, long baseMs) {
        Header[] headers = got.headers().toArray();
        String at = got.partition() + "/" + got.offset();
        if (headers.length == 0 || !headers[0].key().equals("i")) {
            throw new AssertionError("the record at " + at + " has headers " + Arrays.toString(headers));
        }
        int i = Integer.parseInt(new String(headers[0].value(), StandardCharsets.UTF_8));
        same(i, at, "partition", i % PARTITIONS == got.partition());
        same(i, at, "offset", i / PARTITIONS == got.offset());
        same(i, at, "timestamp", baseMs + 10L * i == got.timestamp());
        same(i, at, "key", Arrays.equals(key(i), got.key()));
        same(i, at, "value", Arrays.equals(value(i), got.value()));
        same(i, at, "headers", headers(i).equals(Arrays.asList(headers)));
        return i;
    }

    private static void same(int i, String at, String field, boolean same) {
        if (!same) {
            throw new AssertionError("record " + i + " at " + at + ": its " + field + " differs");
        }
    }

    /** How many of the first {@code records} records belong to {@code partition}. */
    static long endOffset(int partition, int records) {
        return (records - partition + PARTITIONS - 1) / PARTITIONS;
    }

    static void checkGenerator() {
        try {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            for (int i = 0; i < 1000; i++) {
                byte[] value = value(i);
                digest.update(value == null ? new byte[0] : value);
            }
            String sum = HexFormat.of().formatHex(digest.digest());
            if (!sum.equals(CHECKSUM)) {
                throw new AssertionError("the generator differs from compat/README.md: " + sum);
            }
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e);
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
