"""Connections of one server, for threads: taken, given back, made anew, and read from until a deadline.

Owns the pool; redis-py owns protocol, TLS, authentication and Sentinel. Its own pool looks at each socket before each
use (0.02 ms) and waits without a deadline. Must not know what is asked.
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
"""Bytes of one read from a socket: an answer of 500 items takes one or two."""

T = TypeVar("T")


class DeadlineParser(_HiredisParser):
    """redis-py's parser, but all reads of a reply together end at `deadline` (monotonic seconds)."""

    deadline = float("inf")

    def read_from_socket(self, timeout: Any = None, raise_on_timeout: bool = True) -> bool:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise redis.TimeoutError("no answer by the deadline")
        return bool(super().read_from_socket(min(left, 1e6), raise_on_timeout))  # type: ignore[no-untyped-call]


def connection_factory(pool: redis.ConnectionPool) -> Callable[[], Any]:
    """Makes connections as the pool would, with a deadline and without redis-py's retries."""
    kwargs: dict[str, Any] = {
        **pool.connection_kwargs,
        "parser_class": DeadlineParser,
        "socket_read_size": READ_SIZE,
        "retry": Retry(NoBackoff(), 0),
    }
    return lambda: pool.connection_class(**kwargs)


def beside(work: Callable[[], T], deadline: float, late: Callable[[T], None]) -> T:
    """The outcome of `work` in a thread of its own, or `redis.TimeoutError` at `deadline`; then `late` gets it.

    Names are resolved, TLS is agreed on and sentinels are asked without a time limit: here they have one.
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
        """A connection, and whether it was used before; a `fresh` one means that the idle ones have gone stale."""
        if self._pid != os.getpid():  # a fork shares its parent's sockets: leave them alone
            self._idle, self._pid = deque(), os.getpid()
        if fresh:
            self.close()
        try:
            return self._idle.pop(), True
        except IndexError:
            return beside(self._connected, deadline, self.release), False

    def release(self, connection: Any) -> None:
        """Give back a connection on which nothing is under way."""
        self._idle.append(connection)

    def close(self) -> None:
        """Close what is idle."""
        try:
            while True:
                self._idle.pop().disconnect()
        except IndexError:
            return

    def _connected(self) -> Any:
        connection = self._make()
        connection.connect()
        return connection
