"""vLLM in this process, for distilling a whole catalogue where a GPU is at hand: no server, no HTTP.

Owns the engine's life and the step from a chat to its request. Must not import vLLM before it is asked for an answer:
this module loads where there is none. A worker wants an endpoint instead, which others can share and restart.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.llm.client import Completion, CompletionRequest, LLMRejected, LLMTimeout, LLMUnavailable, Message

MAX_MODEL_LEN = 4_096
"""Tokens of prompt and answer together."""


class EngineError(RuntimeError):
    """The engine cannot be started, or has died: nothing in this process mends it. The message says what to do."""


class VllmEngine:
    """A `LanguageModel` on the weights of a folder, or of a name that a model hub knows; loaded at the first call.

    `name` is the folder's, as a vLLM server of ours would call it, so that both make the same fingerprints.
    """

    def __init__(
        self,
        weights: str,
        *,
        timeout_s: float = 120.0,
        max_num_seqs: int = 64,
        max_model_len: int = MAX_MODEL_LEN,
    ) -> None:
        if not weights:
            raise EngineError("the in-process engine needs weights: a folder, or a name that a model hub knows")
        self._weights = weights
        self._timeout_s = timeout_s
        self._max_num_seqs = max_num_seqs
        self._max_model_len = max_model_len
        self._vllm: Any = None
        self._engine: Any = None
        self._numbers = itertools.count()

    @property
    def name(self) -> str:
        path = Path(self._weights)
        return path.resolve().name if path.is_dir() else self._weights

    async def served_model(self) -> str:
        return self.name

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `LanguageModel.complete`; raises `EngineError` as well, where the engine cannot start or has died."""
        engine = self.start()
        started = time.monotonic()
        prompt = {"prompt_token_ids": self._prompt_tokens(request.messages)}
        params = self._sampling(request)
        try:
            async with asyncio.timeout(self._timeout_s):
                async for answer in engine.generate(prompt, params, f"{request.schema_name}-{next(self._numbers)}"):
                    output = answer  # the last is the whole one
        except TimeoutError:
            raise LLMTimeout(f"no answer after {self._timeout_s:g} s") from None
        except ValueError as error:  # vLLM's word for a prompt too long or a schema it cannot compile
            raise LLMRejected(str(error)) from error
        except Exception as error:
            raise self._judged(error) from error
        [choice] = output.outputs
        return Completion(
            text=choice.text,
            tokens_in=len(output.prompt_token_ids),
            tokens_out=len(choice.token_ids),
            latency_seconds=time.monotonic() - started,
            model=self.name,
            finish_reason=str(choice.finish_reason or "stop"),
        )

    async def aclose(self) -> None:
        """End the engine's processes and free its memory."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None
            gc.collect()  # it is in a cycle, and its destructor fails at the interpreter's end

    def start(self) -> Any:
        """The engine, loaded where it is not yet; raises `EngineError`.

        Loading takes a minute and holds up the event loop, which has nothing else to do without a model.
        """
        if self._engine is None:
            self._vllm = vllm = _import_vllm()
            arguments = vllm.AsyncEngineArgs(
                model=self._weights,
                max_model_len=self._max_model_len,
                max_num_seqs=self._max_num_seqs,
                enforce_eager=vllm.on_cpu,  # compiling for the CPU takes longer than most catalogues
                # Else a small model pads its JSON with white space, up to max_tokens of it.
                structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
            )
            try:
                self._engine = vllm.AsyncLLM.from_engine_args(arguments)
            except Exception as error:
                raise EngineError(f"vLLM cannot load {self._weights}: {error}") from error
        return self._engine

    def _prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The chat in the model's own template, as token ids: as text its first token would be added twice."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        tokens: list[int] = self._engine.get_tokenizer().apply_chat_template(
            turns, tokenize=True, add_generation_prompt=True, return_dict=False
        )
        return tokens

    def _sampling(self, request: CompletionRequest) -> Any:
        vllm = self._vllm
        return vllm.SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            structured_outputs=vllm.StructuredOutputsParams(json=dict(request.schema)),
            output_kind=vllm.RequestOutputKind.FINAL_ONLY,
        )

    def _judged(self, error: Exception) -> Exception:
        """What an error of the engine is to us: a request it refuses, a dead engine, or one failure that passes."""
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "VLLMClientError" in kinds:
            return LLMRejected(str(error))
        if "EngineDeadError" in kinds or self._engine.errored:
            return EngineError(f"vLLM's engine has died ({error}); its log above says why, the same command goes on")
        return LLMUnavailable(f"vLLM: {type(error).__name__} {error}")


class _Vllm:
    """The names we use of vLLM, wherever its release keeps them."""

    def __init__(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM

        self.AsyncEngineArgs = AsyncEngineArgs
        self.AsyncLLM = AsyncLLM
        self.RequestOutputKind = RequestOutputKind
        self.SamplingParams = SamplingParams
        self.StructuredOutputsParams = StructuredOutputsParams
        self.on_cpu = bool(current_platform.is_cpu())


def _import_vllm() -> Any:
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is for our answer
    try:
        return _Vllm()
    except ImportError as error:
        raise EngineError(
            f"no usable vLLM in this Python ({error}): run `pip install ./sdk .` with vLLM's own Python "
            "and then `python -m cli distill`, or give --llm the URL of an endpoint"
        ) from error
