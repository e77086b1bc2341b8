# As apache/kafka: KAFKA_* becomes server.properties, the tools are in /opt/kafka/bin, and `appuser` runs it.
FROM freshet-test-debian:bookworm
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends openjdk-17-jre-headless >/dev/null
RUN useradd --uid 1000 --create-home appuser \
    && mkdir -p /var/lib/kafka/data /opt/kafka/bin /opt/kafka/config \
    && chown -R appuser /var/lib/kafka /opt/kafka/config
COPY libs /opt/kafka/libs
COPY kafka-start.sh kafka-broker-api-versions.sh /opt/kafka/bin/
USER appuser
VOLUME /var/lib/kafka/data
CMD ["/opt/kafka/bin/kafka-start.sh"]
