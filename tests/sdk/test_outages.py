"""A ranker's answer when Redis does not answer: in time, flagged, and without an exception unless asked for."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from freshet import CircuitBreaker, FeatureReader
from store.feature_writer import FeatureWriter
from store.versions import Versions
from tests.support.samples import item, user
from tests.support.worlds import Blocking

READERS = pytest.mark.parametrize("make", [FeatureReader, Blocking], ids=["threads", "asyncio"])
TIMEOUT_S = 0.25
SLACK_S = 0.25
"""A busy machine wakes late; what these tests catch takes seconds."""


@contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that treats each connection as told."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0?protocol=2"
        server.shutdown(socket.SHUT_RDWR)


def silent(connection: socket.socket) -> None:
    """Takes everything and says nothing."""
    with connection:
        while connection.recv(1 << 16):
            pass


def trickling(connection: socket.socket) -> None:
    """Says one byte at a time, each in time."""
    with connection:
        while connection.recv(1 << 16):
            for byte in b"+" + b"O" * 1_000:
                try:
                    connection.send(bytes([byte]))
                except OSError:
                    return
                time.sleep(0.01)


def timed(ask: Callable[[], Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return ask(), time.monotonic() - started


@READERS
@pytest.mark.parametrize("serve", [silent, trickling])
def test_a_server_that_hangs_costs_the_timeout_and_no_more(make: Any, serve: Any) -> None:
    """Catches a time-out for each read instead of all, a ranker that waits for seconds, or one that crashes."""
    with listener(serve) as url:
        reader = make(url, timeout_s=TIMEOUT_S, version="v1", default=-1.0)
        found, took = timed(lambda: reader.read("u", ["a", "b"]))
        assert took < TIMEOUT_S + SLACK_S
        assert found.partial
        assert not found.answered.any()
        assert not found.user.answered
        assert (found.item_matrix == -1.0).all()
        assert isinstance(found.errors[0], redis.TimeoutError)
        assert reader.items(["a"]).partial
        assert not reader.users(["u"])[0].answered
        with pytest.raises(redis.TimeoutError):
            reader.knowledge("a")
        reader.close()


@READERS
def test_nobody_waits_for_a_name_server(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a connection whose making has no time limit: a resolver, a TLS handshake, a Sentinel."""
    real = socket.getaddrinfo

    def slow(host: Any, *args: Any, **options: Any) -> Any:
        time.sleep(1.0)
        return real("127.0.0.1", *args, **options)

    with listener(silent) as url:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        reader = make(url.replace("127.0.0.1", "redis.example"), timeout_s=TIMEOUT_S, version="v1")
        found, took = timed(lambda: reader.read("u", ["a"]))
        assert took < TIMEOUT_S + SLACK_S
        assert found.partial
        reader.close()


@READERS
def test_a_dead_server_is_left_alone_and_found_again(make: Any, valkey: str) -> None:
    """Catches a ranker that spends its whole budget on every request of an outage, or never comes back."""
    with redis.Redis.from_url(valkey) as client:
        Versions(client).activate("v1")
        FeatureWriter(client).put_items([item("a")])
        reader = make(valkey, timeout_s=TIMEOUT_S, breaker=lambda: CircuitBreaker(2, cooldown_s=0.5))
        assert reader.read("u", ["a"]).present[0]
        client.execute_command("CLIENT", "PAUSE", "800", "ALL")
        for _ in range(2):
            assert reader.read("u", ["a"]).partial
        found, took = timed(lambda: reader.read("u", ["a"]))
        assert found.partial
        assert took < 0.1
        assert "has just failed" in str(found.errors[0])
        assert found.version == "v1"
        deadline = time.monotonic() + 10
        while (found := reader.read("u", ["a"])).partial:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert found.present[0]
        reader.close()


@READERS
def test_errors_are_raised_where_asked_for(make: Any) -> None:
    """Catches an operator's command that shows "nothing stored" for a Redis that is down."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}/0"
    reader = make(url, timeout_s=TIMEOUT_S, raise_errors=True)
    for ask in (lambda: reader.read("u", ["a"]), lambda: reader.items(["a"]), lambda: reader.users(["u"])):
        with pytest.raises(redis.ConnectionError):
            ask()
    with pytest.raises(redis.ConnectionError):
        reader.changed_items()
    reader.close()


@READERS
def test_a_mistake_is_no_outage(make: Any, valkey: str) -> None:
    """Catches a ranker that runs for weeks without features because its password is wrong."""
    with redis.Redis.from_url(valkey) as client:
        client.execute_command("ACL", "SETUSER", "nobody", "on", ">secret", "+hello", "+client|setinfo")
        for url, error in (
            (valkey.replace("//", "//nobody:wrong@"), redis.AuthenticationError),
            (valkey.replace("//", "//nobody:secret@"), redis.exceptions.NoPermissionError),
        ):
            reader = make(url, timeout_s=5.0, breaker=lambda: CircuitBreaker(2, cooldown_s=60.0))
            for _ in range(4):  # nor does it open the breaker, which would turn it into one
                with pytest.raises(error):
                    reader.read("u", ["a"])
            reader.close()
        client.acl_deluser("nobody")


@READERS
def test_an_answer_that_came_too_late_is_not_the_next_ones(make: Any, valkey: str) -> None:
    """Catches a connection given back with a reply under way: one user's features for another."""
    with redis.Redis.from_url(valkey) as client:
        Versions(client).activate("v1")
        FeatureWriter(client).put_users([user("a", 1.0), user("b", 2.0)])
        reader = make(valkey, timeout_s=TIMEOUT_S, breaker=lambda: CircuitBreaker(100))
        assert reader.read("a", []).user.log_vector[0] == 1.0
        client.execute_command("CLIENT", "PAUSE", "500", "ALL")
        assert reader.read("a", []).partial
        deadline = time.monotonic() + 10
        while (found := reader.read("b", [])).partial:
            assert time.monotonic() < deadline
        assert found.user.log_vector[0] == 2.0
        reader.close()


def test_a_forked_worker_makes_connections_of_its_own(valkey: str) -> None:
    """Catches two processes of one pre-forked server that read each other's replies."""
    with redis.Redis.from_url(valkey) as client:
        Versions(client).activate("v1")
        FeatureWriter(client).put_items([item(f"i{n}", float(n)) for n in range(50)])
    with FeatureReader(valkey, timeout_s=10.0) as reader:
        assert reader.read("u", ["i1"]).present[0]
        child = os.fork()
        right = all(reader.read("u", [f"i{n}"]).item_matrix[0, 0] == n for _ in range(20) for n in range(50))
        if child == 0:
            os._exit(0 if right else 1)
        _, status = os.waitpid(child, 0)
        assert right
        assert status == 0
