"""Which back end computes the text encoder, and that all of them agree (`freshet models prepare --encoder`)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from models.encoder import openvino_encoder
from models.encoder.backends import LEAST_COSINE, PROBES, load_encoder, prepared_encoder
from models.encoder.encoder import EncoderUnavailable
from models.encoder.torch_encoder import MiniLmEncoder
from models.encoder.weights import encoder_dir
from streams.settings import SettingError, Settings

pytestmark = pytest.mark.encoder


@pytest.fixture
def folder(encoder: MiniLmEncoder) -> Path:
    """The prepared weights; `encoder` skips where there are none."""
    return encoder_dir(Settings.load().home)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the converted model is kept between the tests of this module."""
    return tmp_path_factory.mktemp("openvino")


def test_openvino_agrees_with_torch_and_is_kept(folder: Path, converted: Path) -> None:
    """Catches a conversion that fixes shapes, or pools padding; and one that is made at every start."""
    pytest.importorskip("openvino")
    exact = MiniLmEncoder(folder, exact=True)
    first = openvino_encoder.OpenVinoEncoder(folder, converted)
    texts = [*PROBES, "", "x", "tea " * 200]
    assert np.sum(first.encode(texts) * exact.encode(texts), axis=1).min() >= LEAST_COSINE
    assert first.revision == exact.revision
    [kept] = converted.iterdir()
    before = (kept / openvino_encoder.MODEL).stat().st_mtime_ns
    again = openvino_encoder.OpenVinoEncoder(folder, converted)
    assert (kept / openvino_encoder.MODEL).stat().st_mtime_ns == before
    assert np.allclose(again.encode(PROBES), first.encode(PROBES), atol=2e-3)


def test_openvino_is_chosen_where_it_pays(folder: Path, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a worker that has the faster back end and does not use it."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino_encoder, "fast_bfloat16", lambda: True)
    monkeypatch.setattr(openvino_encoder, "cuda", lambda: False)
    assert isinstance(load_encoder(folder, cache=converted), openvino_encoder.OpenVinoEncoder)
    assert isinstance(load_encoder(folder, "torch", cache=converted), MiniLmEncoder)


def test_a_wrong_back_end_is_left_with_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches vectors of a broken back end (int8, a bad driver) that end in Redis."""

    class Wrong(MiniLmEncoder):
        def __init__(
            self, folder: Path, cache: Path | None = None, *, batch_size: int = 32, max_tokens: int = 128
        ) -> None:
            super().__init__(folder, batch_size=batch_size, max_tokens=max_tokens)

        def encode(self, texts: object) -> np.ndarray:  # type: ignore[override]
            vectors = super().encode(texts).copy()  # type: ignore[arg-type]
            vectors[:, :40] *= -1
            return vectors

    class Crashing(MiniLmEncoder):
        def __init__(self, folder: Path, *_: object, **__: object) -> None:
            raise RuntimeError("no such instruction")

    for broken, said in ((Wrong, "is wrong"), (Crashing, "no such instruction")):
        monkeypatch.setattr(openvino_encoder, "OpenVinoEncoder", broken)
        with caplog.at_level(logging.WARNING):
            chosen = load_encoder(folder, "openvino")
        assert type(chosen) is MiniLmEncoder
        assert said in caplog.text
        caplog.clear()


def test_what_is_not_installed_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a setting that is silently not followed."""
    monkeypatch.setattr(openvino_encoder, "installed", lambda: False)
    with pytest.raises(EncoderUnavailable, match=r"'.\[openvino\]'"):
        load_encoder(folder, "openvino")
    assert isinstance(load_encoder(folder), MiniLmEncoder)


def test_an_unknown_back_end_and_missing_weights_are_said(folder: Path, tmp_path: Path) -> None:
    """Catches a slip of the pen that costs an hour."""
    with pytest.raises(ValueError, match="auto, openvino, torch"):
        load_encoder(folder, "int8")
    with pytest.raises(FileNotFoundError, match="freshet models prepare"):
        load_encoder(tmp_path)


def test_settings_name_the_encoder_and_its_back_end(folder: Path, tmp_path: Path) -> None:
    """Catches a worker that goes its own way about the encoder."""
    settings = Settings.load({}, home=tmp_path, encoder=str(folder), encoder_backend="torch")
    assert isinstance(prepared_encoder(settings.encoder, settings.home), MiniLmEncoder)
    with pytest.raises(SettingError, match="FRESHET_ENCODER__BACKEND is 'tpu'"):
        prepared_encoder(Settings.load({}, encoder_backend="tpu").encoder, tmp_path)
