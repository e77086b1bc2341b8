"""LLM back ends by name. Owns the table; each back end is a `LanguageModel` of its own file, imported on use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.llm.client import LanguageModel, OpenAIClient


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how a back end reaches its model; `url` is not used by one that computes in this process."""

    url: str
    model: str
    timeout_s: float
    max_connections: int


def _openai(endpoint: Endpoint) -> LanguageModel:
    return OpenAIClient(
        endpoint.url, endpoint.model, timeout_s=endpoint.timeout_s, max_connections=endpoint.max_connections
    )


def _vllm(endpoint: Endpoint) -> LanguageModel:
    from models.llm.vllm_engine import VllmEngine

    return VllmEngine(endpoint.model, timeout_s=endpoint.timeout_s, max_num_seqs=endpoint.max_connections)


BACKENDS: dict[str, Callable[[Endpoint], LanguageModel]] = {"openai": _openai, "vllm": _vllm}
"""LLM back ends by the name `FRESHET_LLM__BACKEND` takes; a new one is one file and one line here."""


def connect(backend: str, endpoint: Endpoint) -> LanguageModel:
    """The model behind `endpoint`; raises `KeyError` for a back end that is not in the table."""
    return BACKENDS[backend](endpoint)
