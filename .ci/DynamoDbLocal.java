// Starts Amazon's DynamoDB Local in memory on a free port of the loopback interface, and prints the
// port. Its own launcher binds every interface and has no option against it.

import com.amazonaws.services.dynamodbv2.local.main.ServerRunner;
import com.amazonaws.services.dynamodbv2.local.server.DynamoDBProxyServer;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

public class DynamoDbLocal {
    public static void main(String[] args) throws Exception {
        // It wants some port; the connector below gets another one.
        String[] options = {"-inMemory", "-disableTelemetry", "-port", "8000"};
        DynamoDBProxyServer dynamo = ServerRunner.createServerFromCommandLineArgs(options);
        var field = DynamoDBProxyServer.class.getDeclaredField("server");
        field.setAccessible(true);
        var connector = (ServerConnector) ((Server) field.get(dynamo)).getConnectors()[0];
        connector.setHost("127.0.0.1");
        connector.setPort(0);
        dynamo.start();
        System.out.println("port " + connector.getLocalPort());
        dynamo.join();
    }
}
