#!/usr/bin/env bash
# KAFKA_A_B_C=value becomes a.b.c=value, as in apache/kafka's own start.
set -euo pipefail
properties=/opt/kafka/config/server.properties
env | sed -n 's/^KAFKA_\([A-Z_]*\)=/\1=/p' | while IFS='=' read -r name value; do
  echo "$(tr 'A-Z_' 'a-z.' <<<"$name")=$value"
done >"$properties"
java -cp '/opt/kafka/libs/*' kafka.tools.StorageTool format --ignore-formatted --cluster-id 5L6g3nShT-eMCtK--X86sw --config "$properties"
exec java -Xmx1g -cp '/opt/kafka/libs/*' kafka.Kafka "$properties"
