"""The reasoner in use: the trained one as soon as its checkpoint stands there, co-occurrence until then.

Owns noticing a new checkpoint and refusing one that does not fit this worker's vectors; a reasoner that needs no
checkpoint is made once, at the first look. Must not train.
"""

from __future__ import annotations

import logging
from pathlib import Path

from freshet.settings import SettingError
from models import checkpoint
from models.aligner import load_aligner
from models.checkpoint import ALIGNER, CONFIG, Checkpoint, CheckpointError
from models.cooccurrence import CooccurrenceReasoner
from models.reasoner import FALLBACK, REASONERS, BehaviorReasoner, ReasonerSources, make_reasoner
from processors.refresh import UserRefresher
from streams.lanes.base import Context
from streams.lanes.text_sources import KnownTitles, acceptable

log = logging.getLogger(__name__)


class LiveReasoner:
    """Gives the `UserRefresher` of the newest checkpoint that fits; not for two threads at once."""

    def __init__(self, context: Context) -> None:
        names = (FALLBACK, *REASONERS)
        if context.settings.reasoner not in names:
            raise SettingError("reasoner", context.settings.reasoner, f"one of {', '.join(names)}")
        self._context = context
        self._fallback = CooccurrenceReasoner()
        self._stamp: tuple[int, int] | None = None
        self._ready = context.settings.reasoner == FALLBACK
        self._refresher = self._make(None)

    def refresher(self) -> UserRefresher:
        """Look at the checkpoint folder (one stat), load what is new, answer what to use.

        Raises `SettingError` where a reasoner without checkpoint cannot be made as told.
        """
        name = self._context.settings.reasoner
        if not self._ready and not REASONERS[name].trained:
            self._refresher = self._make(make_reasoner(name, self._sources(None)))
            self._ready = True
        if self._ready:
            return self._refresher
        stamp = _stamp(self._context.checkpoint_dir)
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp  # a bad checkpoint is refused once, not every second
            try:
                self._refresher = self._make(self._load(self._context.checkpoint_dir))
            except CheckpointError as error:
                log.warning("keeping the reasoner in use", extra={"refused": str(error)})
        return self._refresher

    def _load(self, folder: Path) -> BehaviorReasoner:
        trained = checkpoint.load(folder)
        dims = trained.vectors.shape[1]
        if dims != self._context.settings.dims:
            raise CheckpointError(f"{folder} is for {dims} dimensions, FRESHET_DIMS is {self._context.settings.dims}")
        aligner = folder / ALIGNER
        if aligner.exists() and load_aligner(aligner).revision != self._context.aligner.revision:
            # Items of this version stand in another space; the checkpoint's catalogue would mean nothing there.
            raise CheckpointError(
                f"{folder} was trained in another vector space than version {self._context.settings.version} is "
                "written in; start the worker anew with a new FRESHET_VERSION"
            )
        reasoner = make_reasoner(self._context.settings.reasoner, self._sources(trained))
        log.info("using a trained reasoner", extra={"reasoner": reasoner.name})
        return reasoner

    def _sources(self, trained: Checkpoint | None) -> ReasonerSources:
        context, settings = self._context, self._context.settings
        return ReasonerSources(
            settings=settings,
            checkpoint=trained,
            encoder=lambda: context.encoder,
            aligner=lambda: context.aligner,
            titles=KnownTitles(context.redis, settings.key_prefix, settings.version),
            acceptable=acceptable,
        )

    def _make(self, reasoner: BehaviorReasoner | None) -> UserRefresher:
        settings = self._context.settings
        return UserRefresher(
            reasoner,
            self._fallback,
            settings.version,
            self._context.clock,
            settings.slots,
            settings.steps,
            deadline_s=settings.lease_s / 2,
        )


def _stamp(folder: Path) -> tuple[int, int] | None:
    try:
        stat = (folder / CONFIG).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
