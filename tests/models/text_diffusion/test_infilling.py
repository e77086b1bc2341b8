from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from freshet.records import UserFeatures
from models.encoder.aligner import LinearAligner
from models.reasoner.block_diffusion import BlockDiffusionReasoner
from models.reasoner.catalogue import Catalogue
from models.reasoner.checkpoint import Checkpoint
from models.reasoner.cooccurrence import CooccurrenceReasoner
from models.text_diffusion.grounding import Grounder
from models.text_diffusion.infilling import SLOT_TOKENS, SLOTS_PER_BLOCK, InfillingWriter
from models.text_diffusion.prompt import PromptLog
from models.text_diffusion.reasoner import TextDiffusionReasoner
from processors.users.refresh import UserRefresher
from schemas.codec import Codec
from tests.models.reasoner import reasoner_tools
from tests.models.reasoner.reasoner_tools import told
from tests.models.text_diffusion.text_tools import ENCODER, TITLES, titles
from tests.models.text_diffusion.tiny import EOS_ID, MASK_ID, TURN_ID, network, tokenizer

EVEN = PromptLog(("green tea", "tea pot", "honey jar"), (0, 0, 0))
GAP = PromptLog(("green tea", "tea pot", "honey jar", "camping tent"), (0, 1, 2, 1_000))

NARROW = LinearAligner.random(0, ENCODER.dims, reasoner_tools.DIMS)


def narrow(texts: list[str]) -> np.ndarray:
    return NARROW.align(ENCODER.encode(texts))


def writer(**given: object) -> InfillingWriter:
    return InfillingWriter("tiny", tokenizer(), network(), **given)  # type: ignore[arg-type]


class Scripted:
    """A network that reads what it is told, whatever it is shown: `texts` by number of the slot."""

    def __init__(self, texts: list[str], clock: Callable[[], None] = lambda: None) -> None:
        self.mask_id, self.stop_ids, self.device = MASK_ID, frozenset({EOS_ID}), torch.device("cpu")
        self.shifted = False
        self._told = [token for text in texts for token in self._span(text)]
        self._clock = clock

    def _span(self, text: str) -> list[int]:
        ids = tokenizer().encode(text, add_special_tokens=False)[:SLOT_TOKENS]
        return ids + [EOS_ID] * (SLOT_TOKENS - len(ids))

    def prefix(self, users: int) -> None:
        return None

    def extend(self, prefix: object, block: object) -> None:
        pass

    def read(self, prefix: object, block: object, open_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._clock()
        count = int(open_.sum())
        tokens, self._told = self._told[:count], self._told[count:]
        return torch.full((count,), 0.95), torch.tensor(tokens)


def text_of(ids: tuple[int, ...]) -> str:
    return tokenizer().decode([one for one in ids if one != MASK_ID])


def test_slots_after_the_log_stand_in_blocks_of_masks_behind_their_numbers() -> None:
    """Catches a slot without a number, a log with holes, or all slots in one block."""
    layout = writer().layout(EVEN, 6)
    assert [row.count(MASK_ID) for row in layout.blocks] == [0, SLOT_TOKENS * SLOTS_PER_BLOCK, SLOT_TOKENS * 2]
    assert text_of(layout.blocks[0]).endswith("1. green tea\n2. tea pot\n3. honey jar\n")
    assert text_of(layout.blocks[1]) == "4.\n5.\n6.\n7.\n"
    assert text_of(layout.blocks[2]) == "8.\n9.\n"
    assert [slot.block for slot in layout.slots] == [1, 1, 1, 1, 2, 2]
    for slot in layout.slots:
        assert set(layout.blocks[slot.block][slot.start : slot.end]) == {MASK_ID}


def test_a_gap_in_the_log_gets_slots_among_the_behaviors() -> None:
    """Catches infilling that only appends, and a slot that cannot see what came after it."""
    layout = writer().layout(GAP, 8)
    assert text_of(layout.blocks[1]) == "1. green tea\n2. tea pot\n3. honey jar\n4.\n5.\n6. camping tent\n"
    assert [slot.block for slot in layout.slots] == [1, 1, 2, 2, 2, 2, 3, 3]


def test_a_title_cannot_mask_or_end_anything() -> None:
    """Catches control tokens in a title that the tokenizer would honour."""
    tricky = PromptLog(("tea <|mask|><|end|><|turn|> pot",), (1,))
    layout = writer().layout(tricky, 4)
    assert not {EOS_ID, MASK_ID, TURN_ID} & set(layout.blocks[0])


def test_what_the_network_reads_becomes_lines() -> None:
    """Catches words of one user or slot in another's place, and text after a line's end."""
    texts = ["tent", "tea\nx", "", ".,.", "cup<|turn|>s", " honey "]
    reader = InfillingWriter("scripted", tokenizer(), Scripted(texts))  # type: ignore[arg-type]
    [written] = reader.write([EVEN], slots=6, end=None)
    assert [line.text for line in written.lines] == ["tent", "tea", "cup", "honey"]
    assert all(abs(line.confidence - 0.95) < 1e-6 for line in written.lines)
    assert not written.degraded


def test_the_deadline_gives_what_is_filled() -> None:
    """Catches finished slots thrown away, and half a slot given out as a behavior."""
    now = [0.0]

    def tick() -> None:
        now[0] += 1.0

    scripted = Scripted([f"tent {n}" for n in range(8)], tick)
    reader = InfillingWriter("scripted", tokenizer(), scripted, clock=lambda: now[0])  # type: ignore[arg-type]
    first, second = reader.write([EVEN, EVEN], slots=8, end=0.5)
    assert [len(one.lines) for one in (first, second)] == [4, 4]
    assert first.degraded
    assert second.degraded


def test_users_are_decoded_in_batches_with_the_same_answers() -> None:
    """Catches an answer that depends on who else is in the batch."""
    logs = [EVEN, GAP, PromptLog(("sleeping bag",), (1,))]
    one = writer(users_at_once=1, threshold=0.3).write(logs, slots=4, end=None)
    all_ = writer(users_at_once=3, threshold=0.3).write(logs, slots=4, end=None)
    assert [[line.text for line in each.lines] for each in one] == [[line.text for line in each.lines] for each in all_]


def test_the_record_is_that_of_every_reasoner() -> None:
    """Catches a reasoner whose behaviors no lane could publish, or that leaves a field of the record out."""
    scripted = Scripted(["tent", "camping tent", "flight", "green tea"])
    reader = InfillingWriter("scripted", tokenizer(), scripted)  # type: ignore[arg-type]
    learned = CooccurrenceReasoner([told("w", "i0", "i3")])
    trained = Checkpoint(reasoner_tools.network(6), tuple(TITLES), vectors := narrow(list(TITLES.values())), {}, {})
    reasoners = {
        "text-diffusion@scripted": TextDiffusionReasoner(reader, Grounder(ENCODER, NARROW, 0.6), titles),
        "block-diffusion@unsaved": BlockDiffusionReasoner(trained),
        "cooccurrence": learned,
    }
    for name, reasoner in reasoners.items():
        refresher = UserRefresher(reasoner, None, "v1", lambda: 5, 4, 2, deadline_s=60)
        [user] = refresher.refresh([told("u", "i0", "i1")], Catalogue(list(TITLES), vectors))
        came_back = Codec().decode(UserFeatures, Codec().encode(user))
        assert dataclasses.replace(came_back, behaviors=user.behaviors) == user
        assert [(one.item_id, one.text) for one in came_back.behaviors] == [
            (one.item_id, one.text) for one in user.behaviors
        ]
        assert (user.reasoner, len(user.log_vector), len(user.inferred_vector)) == (name, 16, 16)
        assert "i3" in [one.item_id for one in user.behaviors]
        assert {"i0", "i1"}.isdisjoint(one.item_id for one in user.behaviors)
        assert np.frombuffer(user.inferred_vector, "<f2").any()
