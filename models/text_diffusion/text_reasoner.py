"""The text diffusion reasoner: what a user may do beyond the log, in words first, then as items.

Owns the path from histories to behaviors: titles, the writer, the grounding, the deadline between them. The writers do
the writing: `server` over HTTP, `infilling` and `gemma` in process.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from freshet.records import UserTier
from models.interactions import UserHistory
from models.reasoner.catalogue import Catalogue
from models.reasoner.kinds import ReasonerSources, Titles, TitlesUnavailable
from models.reasoner.reasoner import Inference
from models.text_diffusion.grounding import Grounder
from models.text_diffusion.prompt import MAX_TITLE, MOST_SHOWN, PromptLog, Writer, Written, plain
from models.text_diffusion.server_writer import ServerWriter
from schemas.setting import SettingError

WRITING_SHARE = 0.75
"""Of the seconds until the deadline, what the writer may use: grounding 128 users' lines takes seconds on a CPU."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class TextDiffusionConfig:
    """What a text reasoner needs besides its model."""

    threshold: float = 0.55  # least cosine of a line to an item; below it the line stays words
    concurrency: int = 16  # most calls to a server at once, or users in one batch in process


DEFAULTS = TextDiffusionConfig()


class TextDiffusionReasoner:
    """See `BehaviorReasoner`; calls from several threads run one after the other.

    `seed` changes nothing, as decoding is greedy. `acceptable` says whether a line may be published.
    """

    tier = UserTier.DIFFUSION

    def __init__(
        self,
        writer: Writer,
        grounder: Grounder,
        titles: Titles,
        *,
        acceptable: Callable[[str], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._grounder = grounder
        self._titles = titles
        self._acceptable = acceptable
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """See `BehaviorReasoner.name`."""
        return f"text-diffusion@{self._writer.name}"

    def infer(
        self,
        histories: Sequence[UserHistory],
        catalogue: Catalogue,
        *,
        slots: int,
        deadline_s: float | None = None,
        seed: int = 0,
    ) -> list[Inference]:
        """See `BehaviorReasoner.infer`; users whom the model did not answer for come back empty and degraded."""
        begun = self._clock()
        answers = [Inference()] * len(histories)
        try:
            logs = self._logs(histories, catalogue)
        except TitlesUnavailable as error:
            _log.warning("no titles to show to the text model", extra={"why": str(error)})
            return [Inference(degraded=True)] * len(histories)
        if not logs:
            return answers
        with self._lock:
            end = None if deadline_s is None else begun + WRITING_SHARE * deadline_s
            written = self._writer.write(list(logs.values()), slots=slots, end=end)
            for (user, log), one in zip(logs.items(), written, strict=True):
                late = deadline_s is not None and self._clock() >= begun + deadline_s
                answers[user] = (
                    Inference(degraded=True) if late else self._ground(histories[user], log, one, catalogue, slots)
                )
        return answers

    def _logs(self, histories: Sequence[UserHistory], catalogue: Catalogue) -> dict[int, PromptLog]:
        """What is shown of each user with a known item: the newest distinct items, each at its last event."""
        shown: dict[int, dict[str, int]] = {}
        for user, history in enumerate(histories):
            known = catalogue.rows(history.item_ids) >= 0
            newest: dict[str, int] = {}
            for at in range(len(history.item_ids) - 1, -1, -1):
                if known[at] and len(newest) < MOST_SHOWN:
                    newest.setdefault(history.item_ids[at], history.event_times[at])
            if newest:
                shown[user] = dict(reversed(newest.items()))
        distinct = list({item_id: None for items in shown.values() for item_id in items})
        words = {
            item_id: plain(title, MAX_TITLE) or plain(item_id, MAX_TITLE)
            for item_id, title in zip(distinct, self._titles(distinct) if distinct else (), strict=True)
        }
        return {
            user: PromptLog(tuple(words[item_id] for item_id in items), tuple(items.values()))
            for user, items in shown.items()
        }

    def _ground(
        self, history: UserHistory, log: PromptLog, one: Written, catalogue: Catalogue, slots: int
    ) -> Inference:
        lines = [line for line in one.lines if self._acceptable(line.text)]
        grounded = self._grounder.ground(lines, history.item_ids, log.titles, catalogue, slots)
        return dataclasses.replace(grounded, degraded=one.degraded)


def from_sources(sources: ReasonerSources, config: TextDiffusionConfig = DEFAULTS) -> TextDiffusionReasoner:
    """The reasoner that settings describe: over a server where they name one, else in process from a model folder.

    Raises `SettingError` where they name neither, or a folder that holds no model known here.
    """
    settings = sources.settings
    writer: Writer
    if settings.url:
        writer = ServerWriter(
            settings.url,
            settings.model,
            concurrency=config.concurrency,
            timeout_s=sources.timeout_s,
        )
    elif settings.model:
        from models.text_diffusion.families import load_writer
        from models.text_diffusion.model_folder import ModelFolderError

        try:
            writer = load_writer(Path(settings.model).expanduser(), users_at_once=config.concurrency)
        except ModelFolderError as error:
            raise SettingError("reasoner.model", settings.model, f"a model folder ({error})") from error
    else:
        raise SettingError("reasoner.url", "", "a text diffusion server, or FRESHET_REASONER__MODEL, a model folder")
    grounder = Grounder(sources.encoder(), sources.aligner(), config.threshold)
    return TextDiffusionReasoner(writer, grounder, sources.titles, acceptable=sources.acceptable)
