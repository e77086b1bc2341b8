"""What lanes and jobs share: clients, models and state, each made once and never replaced.

Owns how they are put together. Must not import a lane, nor anything heavy before somebody asks for it: a worker with
the sink alone loads no torch.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freshet.clock import Clock, wall_clock
from streams.backoff import MOST_S, Backoff
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
    from streams.wiring.pins import ComponentPins


class Resources:
    """Settings, clock, metrics, health, and the shared resources, each made when first asked for.

    What is handed to the constructor takes the place of what would be made: a test hands in its fakes. Afterwards
    nothing can be assigned, so what a lane was given stays what it is.

    `member`: this process joins its version (`streams.versions.membership`), so its language model is pinned before it
    is asked anything.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock = wall_clock,
        metrics: Metrics | None = None,
        member: bool = False,
        codec: Codec | None = None,
        producer: Producer | None = None,
        encoder: TextEncoder | None = None,
        aligner: Aligner | None = None,
        llm: LanguageModel | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        given = {"codec": codec, "producer": producer, "encoder": encoder, "aligner": aligner, "llm": llm}
        vars(self).update(
            settings=settings,
            clock=clock,
            metrics=metrics,
            member=member,
            health=Health(metrics, stall_s=settings.worker.stall_s),
            topics=Topics(settings),
            # `cached_property` looks here first.
            **{name: one for name, one in given.items() if one is not None},
        )

    settings: Settings
    clock: Clock
    metrics: Metrics
    member: bool
    health: Health
    topics: Topics

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} is set once, by the constructor: a lane may have it already")

    def backoff(self, lane: str, *, most_s: float = MOST_S) -> Backoff:
        """A pause of its own for work of `lane`; while it waits, the lane counts as waiting (`Health.waiting`)."""
        return Backoff(lane, self.metrics, self.health, most_s=most_s)

    @cached_property
    def redis(self) -> Client:
        """A pooled client; reconnects by itself, raises redis errors that `errors.family` knows."""
        from freshet.connect import connect

        return connect(self.settings.redis.url, socket_timeout=10, socket_connect_timeout=5, health_check_interval=30)

    @cached_property
    def codec(self) -> Codec:
        """The Avro codec, with the registry where one is configured."""
        from schemas.codec import Codec

        if not self.settings.registry.url:
            return Codec()
        from schemas.registry import RegistryClient

        registry = RegistryClient(self.settings.registry.url, auto_register=self.settings.registry.auto_register)
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
        limits = DeadLetterLimits(run=s.dead_letters.run, ratio=s.dead_letters.ratio)
        return DeadLetterProducer(self.producer, self.codec, self.metrics, self.clock, limits=limits)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder; its weights must have been prepared (`freshet models prepare`)."""
        from models.encoder.backends import prepared_encoder

        return prepared_encoder(self.settings.encoder, self.settings.home)

    @cached_property
    def aligner(self) -> Aligner:
        """From the encoder's space to the stored one: the checkpoint's, else the trained one, else random."""
        from models.encoder.aligner import LinearAligner, load_aligner

        trained = self.trained_aligner
        if trained is None:
            return LinearAligner.random(0, self.encoder.dims, self.settings.vectors.dims)
        aligner = load_aligner(trained)
        if aligner.dims != self.settings.vectors.dims:
            raise SettingError("vectors.dims", self.settings.vectors.dims, f"{aligner.dims}, the width of {trained}")
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
        from streams.wiring.language_model import endpoint

        return endpoint(self.settings)

    @cached_property
    def pins(self) -> ComponentPins:
        """What this process has made part of its version."""
        from store.versions import Versions
        from streams.wiring.pins import ComponentPins

        return ComponentPins(Versions(self.redis, self.settings.key_prefix), self.settings.version)

    @cached_property
    def limited_llm(self) -> LanguageModel:
        """`llm` within what its endpoint bears and the hour's token budget; a member's is pinned."""
        from streams.wiring.language_model import language_model

        pin = self.pins.pin if self.member else None
        return language_model(self.llm, self.settings, self.metrics, lambda: self.redis, pin)

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
        cache = KnowledgeCache(self.redis, s.key_prefix)
        return CachedDistiller(self.distiller, cache, s.version, self.clock, sharing=s.knowledge.share)

    @property
    def checkpoint_dir(self) -> Path:
        """Where the reasoner's checkpoint is, or will be."""
        return (
            Path(self.settings.reasoner.checkpoint).expanduser()
            if self.settings.reasoner.checkpoint
            else self.settings.home / "reasoner"
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
