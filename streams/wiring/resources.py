"""What a lane is, and what it is given.

Owns the `Lane` contract and the `Resources` with the resources lanes share. Must not import a lane, nor anything heavy
before a lane asks for it: a worker with the sink alone loads no torch.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from freshet.clock import Clock, wall_clock
from streams.health import Health
from streams.kafka.topics import Topics
from streams.metrics import Metrics
from streams.settings import SettingError, Settings

if TYPE_CHECKING:
    from freshet.connect import Client
    from models.encoder.aligner import Aligner
    from models.encoder.encoder import TextEncoder
    from models.llm.client import LanguageModel
    from processors.items.cached_distiller import CachedDistiller
    from processors.items.distiller import DistillationConfig, Distiller
    from processors.items.embed import ItemEmbedder
    from schemas.codec import Codec
    from streams.kafka.dead_letters import DeadLetterProducer
    from streams.kafka.producer import Producer


class Lane(Protocol):
    """One step of the flow with a consumer group (or timer) of its own, run by `streams.worker.worker`.

    - `start` returns once the lane runs; it raises where the lane can not.
    - `wait_failed` returns the error that stopped the lane for good, and never returns while the lane is well.
    - `stop` finishes or abandons what is in flight within seconds, commits what is durable, and may be called once,
      also on a lane that failed. What is not committed comes again.
    """

    name: str

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def wait_failed(self) -> BaseException: ...


async def failure_of(task: asyncio.Task[None]) -> BaseException:
    """The error that ended `task`; never returns where it was stopped on purpose: nobody is told of that."""
    await asyncio.wait([task])
    error = None if task.cancelled() else task.exception()
    if error is None:
        await asyncio.Event().wait()
    assert error is not None
    return error


class Resources:
    """Settings, clock, metrics, and shared resources, each made when first asked for.

    A test puts its fakes in by assignment (`resources.encoder = FakeEncoder()`) before a lane asks.
    """

    def __init__(self, settings: Settings, *, clock: Clock = wall_clock, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.clock = clock
        self.metrics = metrics or Metrics()
        self.health = Health(stall_s=settings.stall_s)
        self.topics = Topics(settings)

    @cached_property
    def redis(self) -> Client:
        """A pooled client; reconnects by itself, raises redis errors that `errors.family` knows."""
        from freshet.connect import connect

        return connect(self.settings.redis, socket_timeout=10, socket_connect_timeout=5, health_check_interval=30)

    @cached_property
    def codec(self) -> Codec:
        """The Avro codec, with the registry where one is configured."""
        from schemas.codec import Codec

        if not self.settings.registry:
            return Codec()
        from schemas.registry import RegistryClient

        registry = RegistryClient(self.settings.registry, auto_register=self.settings.registry_auto_register)
        return Codec(registry)

    @cached_property
    def producer(self) -> Producer:
        """The worker's one confirmed producer."""
        from streams.kafka.producer import KafkaProducer

        return KafkaProducer(self.settings)

    def dead_letters(self) -> DeadLetterProducer:
        """A new dead-letter producer: each lane has its own, as runs are counted per lane and partition."""
        from streams.kafka.dead_letter_limits import DeadLetterLimits
        from streams.kafka.dead_letters import DeadLetterProducer

        s = self.settings
        limits = DeadLetterLimits(run=s.dead_letter_run, ratio=s.dead_letter_ratio, window=s.dead_letter_window)
        return DeadLetterProducer(self.producer, self.codec, self.metrics, self.clock, limits=limits)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder; its weights must have been prepared (`freshet models prepare`)."""
        from models.encoder.encoder import prepared_encoder

        return prepared_encoder(self.settings)

    @cached_property
    def aligner(self) -> Aligner:
        """From the encoder's space to the stored one: the checkpoint's, else the trained one, else random."""
        from models.encoder.aligner import LinearAligner, load_aligner

        trained = self.trained_aligner
        if trained is None:
            return LinearAligner.random(0, self.encoder.dims, self.settings.dims)
        aligner = load_aligner(trained)
        if aligner.dims != self.settings.dims:
            raise SettingError("dims", self.settings.dims, f"{aligner.dims}, the width of {trained}")
        return aligner

    @property
    def trained_aligner(self) -> Path | None:
        """The file of the trained aligner, if there is one."""
        files = (self.checkpoint_dir / "aligner.safetensors", self.settings.home / "aligner.safetensors")
        return next((file for file in files if file.exists()), None)

    @cached_property
    def embedder(self) -> ItemEmbedder:
        """Items to features of this version."""
        from processors.items.embed import ItemEmbedder

        return ItemEmbedder(self.encoder, self.aligner, self.settings.version, self.clock)

    @cached_property
    def llm(self) -> LanguageModel:
        """The language model at the endpoint; raises `SettingError` for an unknown back end."""
        from models.llm.client import BACKENDS, Endpoint, connect

        s = self.settings
        if s.llm_backend not in BACKENDS:
            raise SettingError("llm_backend", s.llm_backend, f"one of {', '.join(BACKENDS)}")
        return connect(s.llm_backend, Endpoint(s.llm, s.llm_model, s.llm_timeout_s, 2 * s.llm_concurrency))

    @cached_property
    def limited_llm(self) -> LanguageModel:
        """The language model with as many calls as its endpoint bears, and no more tokens an hour than told."""
        from models.llm.limits import AdaptiveLimit, BudgetedModel, LimitedModel

        s, metrics, llm = self.settings, self.metrics, self.llm
        if s.llm_tokens_per_hour:
            from store.token_budget import TokenBudget

            # A call that takes longer than its time-out is a dead worker's.
            lease_s = s.llm_timeout_s + 60
            budget = TokenBudget(self.redis, s.key_prefix, limit=s.llm_tokens_per_hour, lease_s=lease_s)
            llm = BudgetedModel(
                llm,
                budget,
                deferred=metrics.llm_deferrals.inc,
                spent=lambda state: metrics.llm_budget_spent.set(state.spent),
            )
        return LimitedModel(llm, AdaptiveLimit(s.llm_concurrency, changed=metrics.llm_limit.set))

    @cached_property
    def distillation(self) -> DistillationConfig:
        """How knowledge is made, as the settings ask for; raises `SettingError` where a file or a name is wrong."""
        from streams.wiring.distillation import distillation_config

        return distillation_config(self.settings, self.encoder)

    @cached_property
    def distiller(self) -> Distiller:
        """Items to knowledge, each by calls of its own."""
        from processors.items.distiller import Distiller

        version = self.settings.version
        return Distiller(self.limited_llm, clock=self.clock, distillation=self.distillation, version=version)

    @cached_property
    def cached_distiller(self) -> CachedDistiller:
        """Items to knowledge, by calls only where neither the cache nor a near-duplicate has it."""
        from processors.items.cached_distiller import CachedDistiller
        from store.knowledge_cache import KnowledgeCache

        s = self.settings
        cache = KnowledgeCache(self.redis, s.key_prefix, ttl_s=s.knowledge_cache_ttl_s)
        return CachedDistiller(self.distiller, cache, s.version, self.clock, sharing=s.share_knowledge)

    @property
    def checkpoint_dir(self) -> Path:
        """Where the reasoner's checkpoint is, or will be."""
        return (
            Path(self.settings.checkpoint).expanduser() if self.settings.checkpoint else self.settings.home / "reasoner"
        )

    async def close(self) -> None:
        """Release what was made; sends under way get ten seconds."""
        made = vars(self)
        if "llm" in made:
            await self.llm.aclose()
        if "producer" in made:
            await asyncio.to_thread(self.producer.close)
        if "redis" in made:
            self.redis.close()
