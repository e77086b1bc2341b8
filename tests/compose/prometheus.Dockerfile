# Debian's Prometheus where prom/prometheus would be.
FROM freshet-test-debian:bookworm
RUN apt-get update -qq \
    && RUNLEVEL=1 apt-get install -qq -y --no-install-recommends prometheus wget >/dev/null \
    && mkdir /prometheus && chown nobody /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
