"""The reasoner in use: the trained one as soon as its checkpoint stands there, co-occurrence until then.

Owns noticing a new checkpoint, refusing one that does not fit this worker's vectors, and making the first that fits
part of the version: another one needs another version. A reasoner that needs no checkpoint is made once, at the first
look. Must not train.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from redis import RedisError

from models.encoder.aligner import load_aligner
from models.reasoner import checkpoint
from models.reasoner.checkpoint import ALIGNER, CONFIG, Checkpoint, CheckpointError
from models.reasoner.cooccurrence import CooccurrenceReasoner
from models.reasoner.kinds import FALLBACK, REASONERS, ReasonerSources, make_reasoner
from models.reasoner.reasoner import BehaviorReasoner
from processors.users.refresh import UserRefresher
from store.versions import VersionConflict, Versions
from streams.identity import worker_name
from streams.lanes.text_sources import KnownTitles, acceptable
from streams.settings import SettingError
from streams.wiring.resources import Resources

UNKNOWN = "unknown"
"""What a text diffusion server's model is called before its first answer (`models/text_diffusion/server_writer.py`)."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reasoner that is to be used, with the revision of the aligner it was trained with, if it was."""

    reasoner: BehaviorReasoner
    aligner: str = ""

    @property
    def components(self) -> dict[str, str]:
        """What it makes the version of; nothing as long as a server has not said which model it serves."""
        if self.reasoner.name.endswith(f"@{UNKNOWN}"):
            return {}
        return {"checkpoint": self.reasoner.name} | ({"aligner": self.aligner} if self.aligner else {})


class LiveReasoner:
    """Gives the `UserRefresher` of the version's checkpoint; not for two threads at once."""

    def __init__(self, resources: Resources) -> None:
        names = (FALLBACK, *REASONERS)
        if resources.settings.reasoner.kind not in names:
            raise SettingError("reasoner", resources.settings.reasoner.kind, f"one of {', '.join(names)}")
        self._resources = resources
        self._versions = Versions(resources.redis, resources.settings.key_prefix)
        self._fallback = CooccurrenceReasoner()
        self._stamp: tuple[int, int] | None = None
        self._candidate: Candidate | None = None
        self._in_use: Candidate | None = None
        self._ready = resources.settings.reasoner.kind == FALLBACK
        self._refresher = self._make(None)

    def refresher(self) -> UserRefresher:
        """Look at the checkpoint folder (one stat), load what is new, answer what to use.

        Raises `SettingError` where a reasoner without checkpoint cannot be made as the settings want it,
        `VersionConflict` where it is not the version's, and `VersionRetiring`.
        """
        if not self._ready:
            self._look()
            if self._candidate is not None:
                self._adopt(self._candidate)
        return self._refresher

    def _look(self) -> None:
        name = self._resources.settings.reasoner.kind
        if not REASONERS[name].trained:
            if self._candidate is None:
                self._candidate = Candidate(make_reasoner(name, self._sources(None)))
            return
        stamp = _stamp(self._resources.checkpoint_dir)
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp  # a bad checkpoint is refused once, not every second
            try:
                self._candidate = self._load(self._resources.checkpoint_dir)
            except CheckpointError as error:
                log.warning("keeping the reasoner in use", extra={"refused": str(error)})

    def _adopt(self, candidate: Candidate) -> None:
        """Use it if the version is, or now becomes, one of this checkpoint; ask again while Redis is away."""
        settings, trained = self._resources.settings, REASONERS[self._resources.settings.reasoner.kind].trained
        components = candidate.components
        try:
            self._versions.pin(settings.version, components, by=worker_name())
        except RedisError as error:
            log.warning("not yet using a reasoner", extra={"reasoner": candidate.reasoner.name, "cause": repr(error)})
            return
        except VersionConflict as error:
            if not trained:
                raise
            self._candidate = None
            log.warning("keeping the reasoner in use", extra={"refused": str(error)})
            return
        if candidate is not self._in_use:
            self._in_use, self._refresher = candidate, self._make(candidate.reasoner)
            log.info("using a trained reasoner", extra={"reasoner": candidate.reasoner.name})
        if components:
            self._candidate, self._ready = None, not trained

    def _load(self, folder: Path) -> Candidate:
        trained = checkpoint.load(folder)
        dims = trained.vectors.shape[1]
        if dims != self._resources.settings.vectors.dims:
            raise CheckpointError(
                f"{folder} is for {dims} dimensions, FRESHET_VECTORS__DIMS is {self._resources.settings.vectors.dims}"
            )
        revision = load_aligner(folder / ALIGNER).revision if (folder / ALIGNER).exists() else ""
        if revision and revision != self._resources.aligner.revision:
            # Items of this version stand in another space; the checkpoint's catalogue would mean nothing there.
            raise CheckpointError(
                f"{folder} was trained in another vector space than version {self._resources.settings.version} is "
                "written in; `freshet versions create NEW` and start the worker anew with FRESHET_VERSION=NEW"
            )
        return Candidate(make_reasoner(self._resources.settings.reasoner.kind, self._sources(trained)), revision)

    def _sources(self, trained: Checkpoint | None) -> ReasonerSources:
        resources, settings = self._resources, self._resources.settings
        return ReasonerSources(
            settings=settings.reasoner,
            timeout_s=settings.llm.timeout_s,
            checkpoint=trained,
            encoder=lambda: resources.encoder,
            aligner=lambda: resources.aligner,
            titles=KnownTitles(resources.redis, settings.key_prefix, settings.version),
            acceptable=acceptable,
        )

    def _make(self, reasoner: BehaviorReasoner | None) -> UserRefresher:
        settings = self._resources.settings
        return UserRefresher(
            reasoner,
            self._fallback,
            settings.version,
            self._resources.clock,
            settings.reasoner.slots,
            deadline_s=settings.refresh.lease_s / 2,
        )


def _stamp(folder: Path) -> tuple[int, int] | None:
    try:
        stat = (folder / CONFIG).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
