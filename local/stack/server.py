"""What Kafka and Valkey have in common as children: a data folder, given or temporary, and an end to both.

Owns the folder's life and the context manager. How a server starts is in its own module.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from local.stack.process import ChildProcess


class DataServer(ABC):
    """A child process with data. Without `folder` the data goes with the server.

    It is never taken for hung: ending a data server that is only slow (it recovers its log) makes things worse.
    """

    hung_after_s: float | None = None

    def __init__(self, folder: Path | None, prefix: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix=prefix) if folder is None else None
        self._folder = folder or Path(self._temporary.name if self._temporary else "")
        self.child: ChildProcess | None = None

    @abstractmethod
    def start(self) -> str:
        """Start, wait until it answers, return its address. Raises `ServiceError`."""

    def stop(self) -> None:
        """End the server, and delete its data when the folder was a temporary one. May be called twice."""
        if self.child is not None:
            self.child.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
