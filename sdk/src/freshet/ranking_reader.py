"""Everything for ranking one user's candidates: in one round trip for a user seen recently, in two for another.

Owns the ids to read beside the candidates, and the promise that all are of one version. Must not know what a column
means: `ranking.py` does.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from freshet.async_reader import AsyncFeatureReader
from freshet.ranking import CandidateFeatures, RankingOptions, candidate_features
from freshet.reader import FeatureReader
from freshet.results import FeatureRead, ItemsRead


@dataclass(frozen=True, slots=True, eq=False)
class RankingRead:
    """N candidates with their columns, and the features that these were made from, all of one version.

    `candidates` is the result of `FeatureReader.read`; its `partial` and `errors` cover history and behaviors too. The
    row of an absent history item or behavior is zero.
    """

    features: CandidateFeatures
    candidates: FeatureRead
    history: NDArray[np.float32]  # (H, dims)
    behaviors: NDArray[np.float32]  # (B, dims), in the order of candidates.user.behaviors

    def __repr__(self) -> str:
        rows = f"history={len(self.history)}, behaviors={len(self.behaviors)}"
        return f"RankingRead({self.features!r}, {rows}, {self.candidates!r})"


class RankingReader:
    """Reads candidates, the user, the user's history and inferred behaviors, and makes a ranker's matrix of them.

    >>> ranking = RankingReader(FeatureReader("redis://features:6379/0"))
    >>> found = ranking.read("user-7", candidate_ids, history_ids)
    >>> scores = model.predict(found.features.matrix)

    History items are read together with the candidates. The ids of the behaviors are known only when the user has been
    read. This class remembers those of the last `remembered_users` users and reads them together with the candidates
    too, so a second round trip is needed only for a user's first request, and after a refresh that brought other
    behaviors. Each trip has the reader's `timeout_s`. History and behaviors that no column of `options` needs are not
    read. Thread-safe.
    """

    def __init__(
        self, reader: FeatureReader, options: RankingOptions | None = None, *, remembered_users: int = 10_000
    ) -> None:
        self._reader = reader
        self._plans = _Plans(options or RankingOptions(), remembered_users)

    def read(self, user_id: str, candidate_ids: Sequence[str], history_ids: Sequence[str] = ()) -> RankingRead:
        """Everything for one ranking request; errors are those of `FeatureReader.read`."""
        while True:
            plan = self._plans.plan(user_id, candidate_ids, history_ids)
            found = self._reader.read(user_id, plan.ids)
            missing = self._plans.missing(plan, found)
            more = self._reader.items(missing) if missing else None
            if more is None or _match(found, more):
                return plan.answer(found, missing, more)


class AsyncRankingReader:
    """`RankingReader` for asyncio.

    >>> ranking = AsyncRankingReader(AsyncFeatureReader("redis://features:6379/0"))
    >>> found = await ranking.read("user-7", candidate_ids, history_ids)
    """

    def __init__(
        self, reader: AsyncFeatureReader, options: RankingOptions | None = None, *, remembered_users: int = 10_000
    ) -> None:
        self._reader = reader
        self._plans = _Plans(options or RankingOptions(), remembered_users)

    async def read(self, user_id: str, candidate_ids: Sequence[str], history_ids: Sequence[str] = ()) -> RankingRead:
        """Everything for one ranking request; errors are those of `AsyncFeatureReader.read`."""
        while True:
            plan = self._plans.plan(user_id, candidate_ids, history_ids)
            found = await self._reader.read(user_id, plan.ids)
            missing = self._plans.missing(plan, found)
            more = await self._reader.items(missing) if missing else None
            if more is None or _match(found, more):
                return plan.answer(found, missing, more)


def _match(found: FeatureRead, more: ItemsRead) -> bool:
    """Whether both trips read the same version; if another was activated between them, the request starts again."""
    return found.version == more.version and found.item_matrix.shape[1] == more.item_matrix.shape[1]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one request reads: `ids` are candidates, then history, then the behaviors that the user had last time."""

    options: RankingOptions
    user_id: str
    ids: list[str]
    candidates: int
    history: int

    def behaviors(self, found: FeatureRead) -> list[str]:
        """The ids of the user's behaviors, if a column needs them."""
        return [behavior.item_id for behavior in found.user.behaviors] if "behaviors" in self.options.groups else []

    def answer(self, found: FeatureRead, missing: Sequence[str], more: ItemsRead | None) -> RankingRead:
        """Split `found` into its parts; behaviors are in it or in `more`, the items that were `missing` from it."""
        count, end = self.candidates, self.candidates + self.history
        candidates = replace(
            found,
            item_matrix=found.item_matrix[:count],
            present=found.present[:count],
            age_seconds=found.age_seconds[:count],
            tier=found.tier[:count],
            answered=found.answered[:count],
            partial=found.partial or (more is not None and more.partial),
            errors=found.errors if more is None else found.errors + more.errors,
        )
        matrix, present = found.item_matrix, found.present
        if more is not None:
            matrix, present = np.concatenate((matrix, more.item_matrix)), np.concatenate((present, more.present))
        row_of = dict(zip([*self.ids, *missing], range(len(matrix)), strict=True))
        history = _rows(matrix, present, range(count, end))
        behaviors = _rows(matrix, present, [row_of[item_id] for item_id in self.behaviors(found)])
        features = candidate_features(candidates, history, behaviors, self.options)
        return RankingRead(features, candidates, history, behaviors)


def _rows(matrix: NDArray[np.float32], present: NDArray[np.bool_], indices: Sequence[int]) -> NDArray[np.float32]:
    """The rows at `indices`, zero where absent."""
    rows = np.array(indices, np.intp)  # an empty list would become float64, which cannot index
    return np.where(present[rows, None], matrix[rows], np.float32(0))


class _Plans:
    """Makes plans, and remembers the behaviors of the users that were read last."""

    def __init__(self, options: RankingOptions, remembered_users: int) -> None:
        if remembered_users < 0:
            raise ValueError(f"remembered_users is {remembered_users}, wanted 0 or more")
        self._options = options
        self._limit = remembered_users
        self._remembered: OrderedDict[str, list[str]] = OrderedDict()
        self._lock = threading.Lock()

    def plan(self, user_id: str, candidate_ids: Sequence[str], history_ids: Sequence[str]) -> _Plan:
        """What to read for this user."""
        history = history_ids if "history" in self._options.groups else ()
        with self._lock:
            behaviors = self._remembered.get(user_id, ())
        return _Plan(self._options, user_id, [*candidate_ids, *history, *behaviors], len(candidate_ids), len(history))

    def missing(self, plan: _Plan, found: FeatureRead) -> list[str]:
        """The behaviors that `plan` did not ask for; remembers all of them for the next plan."""
        behaviors = plan.behaviors(found)
        if found.user.answered:  # an outage must not make the next request take two trips
            self._remember(plan.user_id, behaviors)
        asked = set(plan.ids) if behaviors else set()
        return [item_id for item_id in dict.fromkeys(behaviors) if item_id not in asked]

    def _remember(self, user_id: str, behaviors: list[str]) -> None:
        with self._lock:
            self._remembered.pop(user_id, None)
            if behaviors and self._limit:
                self._remembered[user_id] = behaviors
                if len(self._remembered) > self._limit:
                    self._remembered.popitem(last=False)  # the user that was read longest ago
