"""What a process is called among the workers of a version. Must not import anything of Freshet."""

from __future__ import annotations

import os
import socket


def worker_name() -> str:
    """`host:pid`, in manifests, in the list of workers, and as the owner of a replay."""
    return f"{socket.gethostname()}:{os.getpid()}"
