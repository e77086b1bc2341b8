import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.IOException;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;

import static java.nio.charset.StandardCharsets.UTF_8;

/**
 * A ranker's read in Java 17, without a library: one MGET, one version, every dtype. See ../redis-layout.md.
 *
 * <pre>java FeatureReader.java localhost:6379 f user-7 item-1 item-2</pre>
 *
 * prints for each item: id, present, tier, age in seconds, dot product with the user's log vector.
 */
public class FeatureReader {
    private static final int HEADER = 40;

    /** Dims and dtype of every vector of a version; dims 0 and dtype 0, which no blob has, before there is one. */
    record Shape(int dims, int dtype) {
        static Shape parse(byte[] text) {
            String[] parts = text == null ? new String[] {"0", ""} : new String(text, UTF_8).split(" ");
            return new Shape(Integer.parseInt(parts[0]), List.of("", "float16", "bfloat16", "int8").indexOf(parts[1]));
        }

        /** The blob, ready to read, or null where it is absent, deleted, or of another format or shape. */
        ByteBuffer open(byte[] bytes) {
            if (bytes == null || bytes.length < HEADER + (dtype == 3 ? 4 + dims : 2 * dims)) return null;
            ByteBuffer blob = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
            boolean usable = (blob.getLong(0) & 0x0000FFFF0100FFFFL) == ((long) dims << 32 | dtype << 8 | 1);
            return usable && dims > 0 ? blob : null;
        }

        /** The first vector of a blob. */
        float[] vector(ByteBuffer blob) {
            float[] values = new float[dims];
            for (int i = 0; i < dims; i++) {
                values[i] = switch (dtype) {
                    case 1 -> half(blob.getShort(HEADER + 2 * i));
                    case 2 -> Float.intBitsToFloat(blob.getShort(HEADER + 2 * i) << 16);
                    default -> blob.getFloat(HEADER) * blob.get(HEADER + 4 + i);
                };
            }
            return values;
        }

        /** Sign and rest to their places in a float, then the difference of the exponents' biases. */
        private static float half(int bits) {
            return Float.intBitsToFloat((bits & 0x8000) << 16 | (bits & 0x7fff) << 13) * 0x1p112f;
        }
    }

    private final Socket socket;
    private final DataInputStream replies;

    FeatureReader(String address) throws IOException {
        int colon = address.lastIndexOf(':');
        socket = new Socket(address.substring(0, colon), Integer.parseInt(address.substring(colon + 1)));
        socket.setSoTimeout(1_000);
        replies = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
    }

    /** The value of each key, null where there is none. */
    byte[][] mget(List<String> keys) throws IOException {
        ByteArrayOutputStream command = new ByteArrayOutputStream();
        command.writeBytes(("*" + (keys.size() + 1) + "\r\n$4\r\nMGET\r\n").getBytes(UTF_8));
        for (String key : keys) {
            byte[] name = key.getBytes(UTF_8);
            command.writeBytes(("$" + name.length + "\r\n").getBytes(UTF_8));
            command.writeBytes(name);
            command.writeBytes("\r\n".getBytes(UTF_8));
        }
        socket.getOutputStream().write(command.toByteArray());
        byte[][] values = new byte[length('*')][];
        for (int i = 0; i < values.length; i++) {
            int size = length('$');
            if (size < 0) continue;
            values[i] = replies.readNBytes(size);
            replies.skipNBytes(2);
        }
        return values;
    }

    /** Reads the line that starts an array or a bulk string; any other is an error of the server's. */
    private int length(char kind) throws IOException {
        StringBuilder line = new StringBuilder();
        for (byte one = replies.readByte(); one != '\n'; one = replies.readByte()) line.append((char) one);
        if (line.charAt(0) != kind) throw new IOException("the server answers " + line);
        return Integer.parseInt(line.substring(1).strip());
    }

    public static void main(String[] arguments) throws IOException {
        FeatureReader reader = new FeatureReader(arguments[0]);
        String active = arguments[1] + ":active", user = arguments[2], version = null, stem;
        List<String> items = List.of(arguments).subList(3, arguments.length);
        byte[][] values = reader.mget(List.of(active)); // at the start only: a ranker remembers its last version
        while (!text(values[0]).equals(version)) { // until the version that was asked for is the active one
            version = text(values[0]);
            stem = arguments[1] + ":" + version;
            List<String> keys = new ArrayList<>(List.of(active, stem + ":shape", stem + ":u:" + user));
            for (String item : items) keys.add(stem + ":i:" + item);
            values = reader.mget(keys);
        }
        Shape shape = Shape.parse(values[1]);
        ByteBuffer found = shape.open(values[2]);
        float[] log = found == null ? new float[shape.dims()] : shape.vector(found);
        for (int i = 0; i < items.size(); i++) {
            ByteBuffer blob = shape.open(values[3 + i]);
            if (blob == null) {
                System.out.println(items.get(i) + " false 0 Infinity 0");
                continue;
            }
            float dot = 0;
            float[] vector = shape.vector(blob);
            for (int j = 0; j < vector.length; j++) dot += vector[j] * log[j];
            double age = Math.max(0, (System.currentTimeMillis() - blob.getLong(8)) / 1000.0);
            System.out.println(items.get(i) + " true " + blob.get(2) + " " + age + " " + dot);
        }
        reader.socket.close();
    }

    private static String text(byte[] value) {
        return value == null ? "" : new String(value, UTF_8);
    }
}
