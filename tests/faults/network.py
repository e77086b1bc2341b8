"""A network of one's own between a worker and its servers, to be cut.

Owns a namespace and its two wires: one to the broker, one to Redis. Needs root and iproute2.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess

from tests.support.servers import needs_privileges

_NUMBERS = itertools.count()


class Network:
    """A network namespace in which a worker runs; `broker_host` and `redis_host` are how this side is called in it."""

    def __init__(self) -> None:
        number = next(_NUMBERS)
        self.name = f"freshet-{os.getpid()}-{number}"
        # Of TEST-NET-3 and its like: nobody routes them.
        net = 16 * (os.getpid() % 8) + 2 * number
        self._wires = {
            "broker": (
                f"fb{os.getpid() % 100_000}x{number}",
                f"203.0.113.{net % 128 + 1}",
                f"203.0.113.{net % 128 + 2}",
            ),
            "redis": (
                f"fr{os.getpid() % 100_000}x{number}",
                f"198.51.100.{net % 128 + 1}",
                f"198.51.100.{net % 128 + 2}",
            ),
        }

    @property
    def broker_host(self) -> str:
        return self._wires["broker"][1]

    @property
    def redis_host(self) -> str:
        return self._wires["redis"][1]

    @property
    def prefix(self) -> list[str]:
        """Put before a command that is to run inside."""
        return ["ip", "netns", "exec", self.name]

    def start(self) -> Network:
        """Make it; skipped aloud, or failed, where that is not possible."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            needs_privileges("network namespaces need root and iproute2")
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        for wire, own, theirs in self._wires.values():
            _ip("link", "add", f"{wire}a", "type", "veth", "peer", "name", f"{wire}b")
            _ip("link", "set", f"{wire}b", "netns", self.name)
            _ip("addr", "add", own, "peer", theirs, "dev", f"{wire}a")
            _ip("-n", self.name, "addr", "add", theirs, "peer", own, "dev", f"{wire}b")
            _ip("link", "set", f"{wire}a", "up")
            _ip("-n", self.name, "link", "set", f"{wire}b", "up")
        return self

    def cut(self, what: str = "broker") -> None:
        """Nothing comes through any more; no connection is told."""
        _ip("link", "set", f"{self._wires[what][0]}a", "down")

    def mend(self, what: str = "broker") -> None:
        """As before."""
        _ip("link", "set", f"{self._wires[what][0]}a", "up")

    def stop(self) -> None:
        """Remove it, wires and all."""
        for wire, _, _ in self._wires.values():
            subprocess.run(["ip", "link", "del", f"{wire}a"], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        needs_privileges(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
