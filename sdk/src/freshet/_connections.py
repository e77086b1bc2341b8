"""The connections to one server, for threads, with a deadline for connecting and reading.

Owns the pool: that of redis-py checks each socket before each use (0.02 ms) and waits without a deadline. redis-py owns
the protocol, TLS, authentication and Sentinel. Must not know what is asked.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis._parsers import _HiredisParser
from redis.backoff import NoBackoff
from redis.retry import Retry

from freshet._breaker import CircuitBreaker

READ_SIZE = 1 << 18
"""Bytes per read from a socket: a reply of 500 items takes one or two reads."""

T = TypeVar("T")


class DeadlineParser(_HiredisParser):
    """redis-py's parser with one deadline, in monotonic seconds, for all the reads of a reply."""

    # redis-py's own time-out starts again with each read, so a server that sends a byte a second never times out.

    deadline = float("inf")

    def read_from_socket(self, timeout: Any = None, raise_on_timeout: bool = True) -> bool:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise redis.TimeoutError("no answer by the deadline")
        return bool(super().read_from_socket(min(left, 1e6), raise_on_timeout))  # type: ignore[no-untyped-call]


def connection_factory(pool: redis.ConnectionPool) -> Callable[[], Any]:
    """A function that connects as the pool would, but with a deadline and without redis-py's retries."""
    kwargs: dict[str, Any] = {
        **pool.connection_kwargs,
        "parser_class": DeadlineParser,
        "socket_read_size": READ_SIZE,
        "retry": Retry(NoBackoff(), 0),
    }
    return lambda: pool.connection_class(**kwargs)


def beside(work: Callable[[], T], deadline: float, late: Callable[[T], None]) -> T:
    """Run `work` in a thread of its own and return its result; raises `redis.TimeoutError` at `deadline`.

    A result that comes later goes to `late`. Resolving a name, the TLS handshake and asking the sentinels have no time
    limit of their own, so they need a thread that can be left behind.
    """
    lock, ready = threading.Lock(), threading.Event()
    outcomes: list[T | Exception] = []
    given_up = False

    def run() -> None:
        try:
            outcome: T | Exception = work()
        except Exception as error:
            outcome = error
        with lock:
            outcomes.append(outcome)
            too_late = given_up
        ready.set()
        if too_late and not isinstance(outcome, Exception):
            late(outcome)

    threading.Thread(target=run, name="freshet-beside", daemon=True).start()
    ready.wait(max(0.0, deadline - time.monotonic()))
    with lock:
        given_up = not outcomes
    if given_up:
        raise redis.TimeoutError("no connection by the deadline")
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
    return outcomes[0]


class Server:
    """One server: its idle connections, newest first, and its breaker."""

    def __init__(self, make: Callable[[], Any], breaker: CircuitBreaker) -> None:
        self._make = make
        self.breaker = breaker
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    def acquire(self, deadline: float, *, fresh: bool = False) -> tuple[Any, bool]:
        """A connection, and whether it was used before; `fresh` closes the idle ones, which have gone stale, first."""
        if self._pid != os.getpid():  # after a fork these sockets belong to the parent process
            self._idle, self._pid = deque(), os.getpid()
        if fresh:
            self.close()
        try:
            return self._idle.pop(), True
        except IndexError:
            return beside(self._connected, deadline, self.release), False

    def release(self, connection: Any) -> None:
        """Give back a connection with no request in flight."""
        self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        try:
            while True:
                self._idle.pop().disconnect()
        except IndexError:
            return

    def _connected(self) -> Any:
        connection = self._make()
        connection.connect()
        return connection
