"""Structured logs: one JSON object a line on stderr.

Owns the format. What a record's `extra` holds becomes fields; messages stay constant so that they can be counted.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Faust and aiokafka tell every step of every service at INFO; ours is the log people read.
_CHATTY = ("faust", "mode", "aiokafka", "httpx", "httpcore", "streams.consumers.faust_consumer", "kafka")


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, then the extra fields and the exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: value for name, value in vars(record).items() if name not in _STANDARD and name != "data"})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send everything from `level` up to stderr; the chatty libraries only from WARNING (all at DEBUG)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(level if level == "DEBUG" else max(logging.WARNING, getattr(logging, level)))
