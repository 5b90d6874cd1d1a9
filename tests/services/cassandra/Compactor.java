import java.io.BufferedReader;
import java.io.InputStreamReader;
import org.apache.cassandra.tools.NodeProbe;

/**
 * Flushes and compacts the keyspaces that it reads the names of, one a line, and
 * answers each with `done`. What `nodetool` does with a Java machine a command;
 * a suite that does it a hundred times needs one for all. Ends with its input.
 */
public final class Compactor {
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        BufferedReader names = new BufferedReader(new InputStreamReader(System.in));
        try (NodeProbe node = new NodeProbe("127.0.0.1", port)) {
            String keyspace;
            while ((keyspace = names.readLine()) != null) {
                node.forceKeyspaceFlush(keyspace);
                node.forceKeyspaceCompaction(false, keyspace);
                System.out.println("done");
                System.out.flush();
            }
        }
    }
}
