"""The command line of vLLM."""

from pathlib import Path

from models.llm.vllm_server import vllm_command


def test_the_server_listens_on_loopback_under_the_folders_name() -> None:
    """Catches a server open to the network, or a model name nobody asks for."""
    command = vllm_command(Path("/env/bin/python"), Path("/models/Qwen"), 8123)
    options = dict(zip(command.argv[3::2], command.argv[4::2], strict=False))
    assert options["--host"] == "127.0.0.1"
    assert options["--max-model-len"] == "4096", "a catalogue's attributes, examples and an item do not fit 2048"
    assert options["--served-model-name"] == "Qwen"
    assert command.ready_url == "http://127.0.0.1:8123/health"
    assert command.env["HF_HUB_OFFLINE"] == "1"


def test_answers_hold_no_white_space_between_tokens() -> None:
    """Catches a small model that pads its JSON up to max_tokens: half of all answers were cut off."""
    argv = vllm_command(Path("p"), Path("m"), 1).argv
    assert '"disable_any_whitespace": true' in argv[argv.index("--structured-outputs-config") + 1]


def test_a_small_machine_gives_all_its_cpus_and_a_large_one_decides_itself() -> None:
    """Catches a server that computes on one of two cores."""
    name = "VLLM_CPU_OMP_THREADS_BIND"
    assert vllm_command(Path("p"), Path("m"), 1, cpus={1, 0}).env[name] == "0,1"
    assert name not in vllm_command(Path("p"), Path("m"), 1, cpus=range(64)).env
    assert name not in vllm_command(Path("p"), Path("m"), 1).env
