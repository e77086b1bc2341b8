"""Runs one command and ends it, with everything it started, when the process that asked for it is gone.

Owns the life of one child: a process of its own, so that it outlives a `kill -9` of its parent just long enough to
clean up. Run as `python -I -S guard.py LIFELINE_FD PARENT_PID GRACE_S -- COMMAND...`; must import nothing but the
standard library.

Why not PR_SET_PDEATHSIG alone: the kernel sends it when the *thread* that forked ends, and it does not reach
grandchildren (vLLM's engine is one). Here the parent holds the write end of a pipe; its end of file says the parent is
gone, or asks for a stop. PR_SET_PDEATHSIG covers the guard itself being killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.5


def _prctl(option: int, value: int) -> None:
    # Linux only; elsewhere the lifeline alone has to do.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> bool:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM the group, wait, SIGKILL what is left of it."""
    if grace_s > 0:
        _signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def main(argv: list[str]) -> int:
    """Start the command, print its pid, and stay until it ends or the parent does."""
    lifeline, parent, grace_s = int(argv[0]), int(argv[1]), float(argv[2])
    command = argv[argv.index("--") + 1 :]
    asked_to_stop = False

    def on_terminate(_number: int, _frame: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the command's output goes to the log, which is our stderr
    try:
        # preexec_fn is safe here: this process has one thread.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_die_with_guard)
    except OSError as error:
        print(f"error {error}", file=report, flush=True)
        return 127
    print(f"pid {child.pid}", file=report, flush=True)
    report.close()

    while child.poll() is None and not asked_to_stop:
        if select.select([lifeline], [], [], POLL_S)[0] or os.getppid() != parent:
            break
    ended_alone = child.returncode
    _end(child, 0.0 if ended_alone is not None else grace_s)
    _reap_orphans()
    code = child.returncode
    return code if code >= 0 else 128 - code


def _reap_orphans() -> None:
    """End grandchildren that left the group: as subreaper we are now their parent."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as listing:
                orphans = [int(pid) for pid in listing.read().split()]
        except OSError:
            return
        if not orphans:
            return
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
