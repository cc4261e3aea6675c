package bench;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** The toy work with exactly_once_v2 and two threads; settings from the environment. */
public final class Adjuster {
  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Event {
    public String id;
    public long delta;
  }

  public static final class State {
    public long on = 1000;
    public long v;
  }

  public static final class Outcome {
    public String id;
    public long on;
    public long v;

    public Outcome() {}

    Outcome(String id, long on, long v) {
      this.id = id;
      this.on = on;
      this.v = v;
    }
  }

  static final class Adjust implements Processor<String, Event, String, Outcome> {
    private ProcessorContext<String, Outcome> context;
    private KeyValueStore<String, State> states;

    @Override
    public void init(ProcessorContext<String, Outcome> given) {
      context = given;
      states = given.getStateStore("states");
    }

    @Override
    public void process(Record<String, Event> record) {
      State state = states.get(record.key());
      if (state == null) {
        state = new State();
      }
      state.on += record.value().delta;
      state.v += 1;
      states.put(record.key(), state);
      context.forward(record.withValue(new Outcome(record.value().id, state.on, state.v)));
    }
  }

  private static <T> Serde<T> json(Class<T> type) {
    ObjectMapper mapper = new ObjectMapper();
    ObjectReader reader = mapper.readerFor(type);
    ObjectWriter writer = mapper.writerFor(type);
    return Serdes.serdeFrom(
        (topic, value) -> {
          try {
            return value == null ? null : writer.writeValueAsBytes(value);
          } catch (IOException error) {
            throw new UncheckedIOException(error);
          }
        },
        (topic, bytes) -> {
          try {
            return bytes == null ? null : reader.readValue(bytes);
          } catch (IOException error) {
            throw new UncheckedIOException(error);
          }
        });
  }

  public static void main(String[] arguments) throws InterruptedException {
    Map<String, String> env = System.getenv();
    Properties config = new Properties();
    config.put(StreamsConfig.APPLICATION_ID_CONFIG, env.get("SERVICE"));
    config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env.get("BOOTSTRAP"));
    config.put(StreamsConfig.STATE_DIR_CONFIG, env.get("DATA_DIR"));
    config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, env.get("COMMIT_MS"));
    config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, env.get("CACHE_BYTES"));
    config.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), env.get("BATCH_BYTES"));
    config.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
    config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

    Topology topology = new Topology();
    topology.addSource(
        "events", Serdes.String().deserializer(), json(Event.class).deserializer(), env.get("EVENTS"));
    topology.addProcessor("adjust", Adjust::new, "events");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore("states"), Serdes.String(), json(State.class))
            .withLoggingEnabled(Map.of())
            .withCachingEnabled(),
        "adjust");
    topology.addSink(
        "outcomes",
        env.get("OUTCOMES"),
        Serdes.String().serializer(),
        json(Outcome.class).serializer(),
        "adjust");

    KafkaStreams streams = new KafkaStreams(topology, config);
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    CountDownLatch ended = new CountDownLatch(1);
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  streams.close(Duration.ofSeconds(20));
                  ended.countDown();
                }));
    streams.start();
    ended.await();
  }
}
