"""The text diffusion benchmark on its toy network: that it runs, and that its ways do the same work."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import text_diffusion
from models.text_diffusion.decoding import decode

CPU = torch.device("cpu")
TOY = text_diffusion.TINY | {"d_model": 16, "mlp_hidden_size": 16, "n_layers": 1}


def test_the_toy_runs_and_tells_every_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a benchmark that fails on the one machine with a GPU, where nobody looked before."""
    monkeypatch.setattr(text_diffusion, "TINY", TOY)
    assert text_diffusion.main(["--tiny", "--users", "1", "--slots", "2", "--rounds", "1"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["masked_tokens"] == 16
    assert set(told["tokens_per_s"]) == {
        *(f"block cache, {pace}" for pace in (1, 2, 4, 8)),
        "no cache, 1",
        "no cache, 4",
        "autoregressive, 1",
    }
    assert all(rate > 0 for rate in told["tokens_per_s"].values())


def test_without_a_gpu_it_refuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a figure of the toy, or of a CPU, taken for one of an 8-billion-parameter model."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert text_diffusion.main([]) == 2
    assert "GPU" in capsys.readouterr().err


def test_a_pace_is_that_many_tokens_a_step_and_all_ways_fill_all_masks() -> None:
    """Catches ratios between runs that did not decode the same tokens."""
    network = text_diffusion.random_network(TOY, CPU)
    blocks = text_diffusion.user_blocks(2, 6, CPU)
    for pace, steps in ((1, [0, 32, 16]), (4, [0, 8, 4]), (64, [0, 1, 1])):
        network.pace = pace
        filled = decode(network, blocks)
        assert [one.steps for one in filled] == steps
        assert not any(bool(one.open.any()) for one in filled)
    network.pace = 4
    [whole] = decode(network, [text_diffusion.joined(blocks)])
    assert (whole.steps, bool(whole.open.any())) == (12, False)
