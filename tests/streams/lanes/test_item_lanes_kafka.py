"""Both item lanes through Faust on the real broker: a catalogue in, vectors and knowledge out, deletions last."""

from __future__ import annotations

import asyncio

from freshet.records import Item, ItemFeatures, ItemTier
from schemas.codec import Codec
from streams.lanes.table import LANES
from streams.settings import Settings
from streams.wiring.resources import Resources
from tests.support.fakes_encoder import FakeEncoder
from tests.support.lane_process import SchemaLlm
from tests.support.lane_tools import make_topics, read_all, send_all, until

NOW = 1_700_000_000_000


async def test_items_deletions_and_poison_end_where_they_should(kafka: str, valkey: str, topic_prefix: str) -> None:
    """Catches what only the whole lane can lose: a deletion overtaken, a tier missing, a bad record that stops it."""
    settings = Settings.load({}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix)
    topics = await asyncio.to_thread(make_topics, settings)
    codec = Codec()
    good = [Item(f"i{n}", NOW + n, f"Thing {n}") for n in range(60)]
    records: list[tuple[bytes | None, bytes | None]] = [(i.item_id.encode(), codec.encode(i)) for i in good]
    records += [(b"i0", None), (b"bad", b"garbage"), (b"i1", codec.encode(Item("i1", NOW, " ")))]
    await asyncio.to_thread(send_all, settings, topics.items, records)

    resources = Resources(settings, encoder=FakeEncoder(), llm=SchemaLlm(delay_s=0.01))
    lanes = [LANES[name].build(resources) for name in ("item-text", "item-distill")]
    for lane in lanes:
        await lane.start()
    await until(lambda: len(read_all(kafka, topics.item_knowledge)) >= 61, "knowledge and one deletion")
    await until(lambda: len(read_all(kafka, topics.item_features)) >= 122, "both tiers and two deletions")
    await until(lambda: len(read_all(kafka, f"{topics.items}.dlq")) >= 4, "two dead letters a lane")
    for lane in lanes:
        await lane.stop()
    await resources.close()

    features = await asyncio.to_thread(read_all, kafka, topics.item_features)
    latest = {record.key: record.value for record in features}
    assert latest[b"i0"] is None
    assert {r.key: r.value for r in await asyncio.to_thread(read_all, kafka, topics.item_knowledge)}[b"i0"] is None
    tiers: dict[bytes | None, set[int]] = {}
    for record in features:
        if record.value is not None:
            tiers.setdefault(record.key, set()).add(codec.decode(ItemFeatures, record.value).tier)
    both = {ItemTier.TEXT, ItemTier.KNOWLEDGE}
    assert tiers == {item.item_id.encode(): both for item in good}
