import com.launchdarkly.sdk.EvaluationDetail;
import com.launchdarkly.sdk.EvaluationReason;
import com.launchdarkly.sdk.LDContext;
import com.launchdarkly.sdk.LDValue;
import com.launchdarkly.sdk.ObjectBuilder;
import com.launchdarkly.sdk.json.JsonSerialization;
import com.launchdarkly.sdk.json.SerializationException;
import com.launchdarkly.sdk.server.Components;
import com.launchdarkly.sdk.server.FeatureFlagsState;
import com.launchdarkly.sdk.server.LDClient;
import com.launchdarkly.sdk.server.LDConfig;
import com.launchdarkly.sdk.server.interfaces.DataSourceStatusProvider;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.function.BooleanSupplier;

/**
 * Drives the Java server-side SDK for Pilotlight's tests.
 *
 * <p>Speaks the line protocol of tests/sdks/README.md: one JSON command per line on stdin, one JSON
 * answer per line on stdout. The SDK's own log goes to stderr. It ends when stdin closes.
 */
public final class Driver {
  /** Between two looks at a condition; short against the delays that tests measure. */
  private static final long POLL_MILLIS = 2;

  /** A dead relay must not hold up the end of the process: closing flushes events. */
  private static final long CLOSE_MILLIS = 2_000;

  private final LDClient client;
  private final long started;
  private Watcher watcher;

  private Driver(Map<String, String> arguments) {
    String url = required(arguments, "url");
    String mode = required(arguments, "mode");
    String events = required(arguments, "events");
    LDConfig.Builder config =
        new LDConfig.Builder()
            .startWait(Duration.ZERO)
            .serviceEndpoints(Components.serviceEndpoints().relayProxy(url));
    switch (mode) {
      case "stream":
        config.dataSource(Components.streamingDataSource());
        break;
      case "poll":
        config.dataSource(Components.pollingDataSource());
        break;
      default:
        throw new IllegalArgumentException("--mode must be stream or poll, not " + mode);
    }
    switch (events) {
      case "on":
        break;
      case "off":
        config.events(Components.noEvents()).diagnosticOptOut(true);
        break;
      default:
        throw new IllegalArgumentException("--events must be on or off, not " + events);
    }
    this.started = System.nanoTime();
    this.client = new LDClient(required(arguments, "sdk-key"), config.build());
  }

  /** Evaluates flags for as long as the process lives and counts what fell back. */
  private static final class Watcher {
    private final LDClient client;
    private final LDValue flags;
    private final long intervalMillis;
    private final LDContext context;
    private long evaluations;
    private long fallbacks;
    private long beforeInit;
    private long longestPauseNanos;
    private LDValue firstFallback = LDValue.ofNull();

    Watcher(LDClient client, LDValue command) throws SerializationException {
      this.client = client;
      this.flags = command.get("flags");
      this.intervalMillis = command.get("interval_ms").longValue();
      this.context = contextOf(command);
      Thread thread = new Thread(this::run, "watcher");
      thread.setDaemon(true);
      thread.start();
    }

    private void run() {
      boolean initialized = false;
      long last = System.nanoTime();
      while (true) {
        initialized = initialized || client.isInitialized();
        for (LDValue flag : flags.values()) {
          String key = flag.stringValue();
          count(key, client.jsonValueVariationDetail(key, context, LDValue.ofNull()), initialized);
        }
        long now = System.nanoTime();
        synchronized (this) {
          longestPauseNanos = Math.max(longestPauseNanos, now - last);
        }
        last = now;
        pause(intervalMillis);
      }
    }

    private synchronized void count(
        String flag, EvaluationDetail<LDValue> detail, boolean initialized) {
      if (!initialized) {
        beforeInit++;
        return;
      }
      evaluations++;
      if (isFallback(detail)) {
        fallbacks++;
        if (firstFallback.isNull()) {
          firstFallback =
              LDValue.buildObject().put("flag", flag).put("reason", reasonOf(detail)).build();
        }
      }
    }

    synchronized ObjectBuilder report() {
      return LDValue.buildObject()
          .put("evaluations", evaluations)
          .put("fallbacks", fallbacks)
          .put("before_init", beforeInit)
          .put("longest_pause_ms", longestPauseNanos / 1_000_000)
          .put("first_fallback", firstFallback);
    }
  }

  private ObjectBuilder run(LDValue command) throws SerializationException {
    String name = command.get("cmd").stringValue();
    switch (name) {
      case "wait_init":
        boolean initialized = until(command.get("timeout_ms").longValue(), client::isInitialized);
        return LDValue.buildObject()
            .put("initialized", initialized)
            .put("elapsed_ms", millisSince(started));
      case "eval":
        return detail(
            command.get("flag").stringValue(), contextOf(command), command.get("default"));
      case "eval_all":
        ObjectBuilder results = LDValue.buildObject();
        for (LDValue flag : command.get("flags").values()) {
          String key = flag.stringValue();
          results.put(key, detail(key, contextOf(command), LDValue.ofNull()).build());
        }
        return LDValue.buildObject().put("results", results.build());
      case "all_flags":
        FeatureFlagsState state = client.allFlagsState(contextOf(command));
        ObjectBuilder values = LDValue.buildObject();
        state.toValuesMap().forEach(values::put);
        return LDValue.buildObject().put("valid", state.isValid()).put("values", values.build());
      case "await_value":
        return awaitValue(command);
      case "status":
        return status();
      case "watch_start":
        if (watcher != null) {
          throw new IllegalStateException("the watcher runs already");
        }
        watcher = new Watcher(client, command);
        return LDValue.buildObject();
      case "watch_report":
        if (watcher == null) {
          throw new IllegalStateException("the watcher was not started");
        }
        return watcher.report();
      default:
        throw new IllegalArgumentException("unknown command " + name);
    }
  }

  private ObjectBuilder detail(String flag, LDContext context, LDValue fallback) {
    EvaluationDetail<LDValue> detail = client.jsonValueVariationDetail(flag, context, fallback);
    int index = detail.getVariationIndex();
    return LDValue.buildObject()
        .put("value", detail.getValue())
        .put("variation", detail.isDefaultValue() ? LDValue.ofNull() : LDValue.of(index))
        .put("reason", reasonOf(detail));
  }

  private ObjectBuilder awaitValue(LDValue command) throws SerializationException {
    long begun = System.nanoTime();
    String flag = command.get("flag").stringValue();
    LDContext context = contextOf(command);
    LDValue wanted = command.get("value");
    LDValue[] last = {LDValue.ofNull()};
    boolean matched =
        until(
            command.get("timeout_ms").longValue(),
            () -> {
              EvaluationDetail<LDValue> detail =
                  client.jsonValueVariationDetail(flag, context, LDValue.ofNull());
              last[0] = detail.getValue();
              return !isFallback(detail) && wanted.equals(last[0]);
            });
    return LDValue.buildObject()
        .put("matched", matched)
        .put("elapsed_ms", millisSince(begun))
        .put("value", last[0]);
  }

  private ObjectBuilder status() {
    DataSourceStatusProvider.Status status = client.getDataSourceStatusProvider().getStatus();
    DataSourceStatusProvider.ErrorInfo error = status.getLastError();
    LDValue lastError =
        error == null
            ? LDValue.ofNull()
            : LDValue.buildObject()
                .put("kind", error.getKind().name())
                .put("status_code", error.getStatusCode())
                .build();
    return LDValue.buildObject()
        .put("state", status.getState().name())
        .put("initialized", client.isInitialized())
        .put("last_error", lastError);
  }

  private void close() throws InterruptedException {
    Thread closing =
        new Thread(
            () -> {
              try {
                client.close();
              } catch (IOException error) {
                error.printStackTrace();
              }
            });
    closing.setDaemon(true);
    closing.start();
    closing.join(CLOSE_MILLIS);
  }

  private static boolean isFallback(EvaluationDetail<LDValue> detail) {
    return detail.isDefaultValue()
        || detail.getReason().getKind() == EvaluationReason.Kind.ERROR;
  }

  private static LDValue reasonOf(EvaluationDetail<LDValue> detail) {
    return LDValue.parse(JsonSerialization.serialize(detail.getReason()));
  }

  private static LDContext contextOf(LDValue command) throws SerializationException {
    LDValue context = command.get("context");
    return context.isNull()
        ? LDContext.create("u1")
        : JsonSerialization.deserialize(context.toJsonString(), LDContext.class);
  }

  private static boolean until(long timeoutMillis, BooleanSupplier condition) {
    long deadline = System.nanoTime() + timeoutMillis * 1_000_000;
    while (!condition.getAsBoolean()) {
      if (System.nanoTime() - deadline >= 0) {
        return false;
      }
      pause(POLL_MILLIS);
    }
    return true;
  }

  private static void pause(long millis) {
    try {
      Thread.sleep(millis);
    } catch (InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }

  private static long millisSince(long nanos) {
    return (System.nanoTime() - nanos) / 1_000_000;
  }

  private static String required(Map<String, String> arguments, String name) {
    String value = arguments.get("--" + name);
    if (value == null) {
      throw new IllegalArgumentException("--" + name + " is missing");
    }
    return value;
  }

  private static void say(PrintStream out, ObjectBuilder answer) {
    out.print(answer.build().toJsonString() + "\n");
    out.flush();
  }

  /** Takes the arguments in pairs of name and value, then serves commands until stdin closes. */
  public static void main(String[] args) throws Exception {
    Map<String, String> arguments = new HashMap<>();
    for (int index = 0; index + 1 < args.length; index += 2) {
      arguments.put(args[index], args[index + 1]);
    }
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    Driver driver = new Driver(arguments);
    say(
        out,
        LDValue.buildObject()
            .put("ok", true)
            .put("sdk", "java")
            .put("version", driver.client.version()));
    BufferedReader lines =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      LDValue command = LDValue.parse(line);
      if ("quit".equals(command.get("cmd").stringValue())) {
        say(out, LDValue.buildObject().put("ok", true));
        break;
      }
      try {
        say(out, driver.run(command).put("ok", true));
      } catch (Exception error) { // every failure is the test's to judge
        error.printStackTrace();
        say(out, LDValue.buildObject().put("ok", false).put("error", error.toString()));
      }
    }
    driver.close();
    // The SDK's threads must not keep the process alive.
    System.exit(0);
  }
}
