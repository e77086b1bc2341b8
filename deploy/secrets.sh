#!/usr/bin/env bash
# Writes the secrets of docker-compose.yml, once: new passwords for ranker, worker, operator and Grafana. What is there stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077
mkdir -p secrets
word() { head -c 24 /dev/urandom | base64 | tr -d '/+=\n'; }
if [[ ! -e secrets/users.acl ]]; then
  ranker=$(word) worker=$(word) operator=$(word)
  sed -n '/^```$/,/^```$/p' ../docs/use/operators/security.md | grep '^user ' |
    sed "s/RANKER-PASSWORD/$ranker/; s/WORKER-PASSWORD/$worker/; s/OPERATOR-PASSWORD/$operator/" >secrets/users.acl
  echo "redis://worker:$worker@valkey:6379/0" >secrets/redis_url
  echo "redis://ranker:$ranker@127.0.0.1:6379/0" >secrets/ranker_redis_url
  echo "redis://operator:$operator@127.0.0.1:6379/0" >secrets/operator_redis_url
  echo "{\"redis://operator@valkey:6379\": \"$operator\"}" >secrets/redis_exporter_passwords
fi
[[ -e secrets/grafana_password ]] || word >secrets/grafana_password
chmod 0644 secrets/*  # containers read them under their own users; the folder is ours alone
chmod 0700 secrets
echo "Secrets are in deploy/secrets/. Next: docker compose --profile cpu up --build --wait"
