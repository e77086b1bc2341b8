# As valkey/valkey: the server, a client, and a /data that belongs to 999:1000.
FROM freshet-test-debian:bookworm
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends redis-tools >/dev/null \
    && ln -s redis-cli /usr/bin/valkey-cli
RUN groupadd --gid 1000 valkey && useradd --uid 999 --gid valkey valkey && mkdir /data && chown valkey:valkey /data
COPY valkey-server /usr/local/bin/valkey-server
WORKDIR /data
VOLUME /data
CMD ["valkey-server"]
