"""The daemon behind `freshet up`: `python -m local.stack.supervise [--no-llm]`.

Owns a stack from its start to SIGTERM. Must not print for people: `cli/stack.py` reads the state file.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from local.stack.process import ServiceError
from local.stack.stack import Stack
from models.encoder.weights import WeightsError
from streams.settings import Settings

DATA = "stack"


def data_folder(home: Path) -> Path:
    """Where the stack of `freshet up` keeps its data and logs."""
    return home / DATA


def main(argv: list[str]) -> int:
    """Run until SIGTERM: 0 after that, 1 when a service could not be started or another stack runs."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    settings = Settings.load()
    stack = Stack(settings, folder=data_folder(settings.home), llm="--no-llm" not in argv, stopping=stop)
    try:
        stack.start()
        if not stack.published:
            print("another stack of this home is running", file=sys.stderr)
            return 1
        stack.wait("llm")
        stop.wait()
    except (ServiceError, WeightsError) as error:
        if stop.is_set():
            return 0
        print(error, file=sys.stderr)
        return 1
    finally:
        stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
