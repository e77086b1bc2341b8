"""`freshet schemas` against a registry over HTTP; producers one version ahead and one behind of a running worker."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import fastavro
import pytest
import redis
from click.testing import CliRunner, Result

from cli import main
from freshet.records import DeadLetter, Item, UserEvent
from schemas.codec import Codec
from schemas.history import kept_schemas, schema_json
from store.histories import HistoryStore
from streams.kafka.subjects import LEVEL, contracts
from streams.kafka.topics import Topics
from streams.settings import Settings
from tests.streams.lanes.test_item_distill_outage import running
from tests.support.lane_tools import make_topics, read_all, send_all, until
from tests.support.registry_stub import RegistryStub, registry_stub

NOW = 1_760_000_000_000


@pytest.fixture
def registry() -> Any:
    with registry_stub() as stub:
        yield stub


def run(registry: RegistryStub | None, *arguments: str) -> Result:
    environment = {"FRESHET_REGISTRY": registry.url if registry else "", "FRESHET_TOPIC_PREFIX": "shop."}
    return CliRunner().invoke(main, ["schemas", *arguments], env=environment)


def test_every_topic_has_its_contract_registered_in_all_versions(registry: RegistryStub) -> None:
    """Catches a forgotten topic, a level that lets a breaking change in, and a second run that changes things."""
    before = run(registry, "check", "--json")
    assert before.exit_code == 1
    assert {row["state"] for row in json.loads(before.stdout)} == {"missing"}
    assert registry.subjects == {}
    assert run(registry, "register").exit_code == 0
    topics = [topic.name for topic in Topics(Settings.load({}, topic_prefix="shop.")).all()]
    assert sorted(registry.subjects) == sorted(f"{topic}-value" for topic in topics)
    assert set(registry.levels.values()) == {LEVEL}
    assert len(registry.subjects["shop.items.dlq-value"]) == 2, "both kept versions of DeadLetter"
    held = dict(registry.subjects)
    assert run(registry, "register").exit_code == 0
    assert registry.subjects == held
    after = run(registry, "check")
    assert after.exit_code == 0
    assert "All 11 subjects have their contract" in after.stdout


def test_a_breaking_change_is_found_before_anybody_writes(registry: RegistryStub) -> None:
    """Catches a check that looks at names only."""
    theirs = json.loads(schema_json(Item))
    theirs["fields"].append({"name": "colour", "type": "string"})
    registry.add(json.dumps(theirs), "shop.items-value")
    registry.levels["shop.items-value"] = LEVEL
    found = run(registry, "check", "--json")
    assert found.exit_code == 1
    [row] = [row for row in json.loads(found.stdout) if row["name"] == "shop.items-value"]
    assert row["state"] == "incompatible"
    assert "does not read" in row["message"]
    refused = run(registry, "register")
    assert refused.exit_code == 1
    assert "incompatible" in refused.output


def test_without_an_answer_it_says_so(registry: RegistryStub) -> None:
    """Catches a traceback, or success, where no registry is configured or none answers."""
    assert run(None, "check").exit_code == 2
    registry.answer_with = (503, b"{}")
    down = run(registry, "check")
    assert down.exit_code == 1
    assert "HTTP 503" in down.output


def test_each_topic_has_a_contract() -> None:
    """Catches a new topic that nobody thought of here."""
    topics = Topics(Settings.load({}))
    assert contracts(topics).keys() == {topic.name for topic in topics.all()}


def ahead(fields: dict[str, Any]) -> tuple[str, bytes]:
    """A schema that a producer of the next release writes, with a field we do not know; and a record under it."""
    schema = json.loads(schema_json(UserEvent))
    schema["fields"].append({"name": "session", "type": "string", "default": ""})
    out = io.BytesIO()
    plain = json.loads(json.dumps(schema).replace('{"type": "long", "logicalType": "timestamp-millis"}', '"long"'))
    fastavro.schemaless_writer(out, fastavro.parse_schema(plain), {**fields, "session": "s1"})
    return json.dumps(schema), out.getvalue()


@pytest.mark.timeout(120)
async def test_producers_ahead_and_behind_of_a_running_worker(
    kafka: str, valkey: str, topic_prefix: str, registry: RegistryStub
) -> None:
    """Catches a rollout order that loses records: the producer's next release before the worker's, or long after."""
    settings = Settings.load(
        {}, kafka=kafka, redis=valkey, topic_prefix=topic_prefix, partitions=1, registry=registry.url
    )
    topics = await asyncio.to_thread(make_topics, settings)
    fields = {"user_id": "u", "item_id": "i1", "event_type": "view", "event_time": NOW, "event_id": "e1", "value": None}
    schema, body = ahead(fields)
    number = registry.add(schema, f"{topics.user_events}-value")
    framed = b"\0" + number.to_bytes(4, "big") + body
    behind = Codec().encode(UserEvent("u", "i2", "view", NOW + 1, "e2"))  # single-object encoding, kept version 1
    assert any(kept.kind is UserEvent and kept.version == 1 for kept in kept_schemas())
    unknown = b"\xc3\x01" + b"\x07" * 8 + body  # ahead, and no registry that could tell what it is
    async with running(settings, "user-events"):
        rows: list[tuple[Any, Any]] = [(b"u", framed), (b"u", behind), (b"u", unknown)]
        await asyncio.to_thread(send_all, settings, topics.user_events, rows)
        with redis.Redis.from_url(valkey) as client:
            store = HistoryStore(client)
            await until(lambda: len(store.load(["u"])[0].item_ids) == 2, "both events", 30)
            assert store.load(["u"])[0].item_ids == ("i1", "i2")
        letters_topic = topics.dead_letters(topics.user_events)
        await until(lambda: len(read_all(kafka, letters_topic)) == 1, "the letter of what names no schema we have")
    [record] = read_all(kafka, letters_topic)
    dead_letter = Codec(await asyncio.to_thread(client_of, registry)).decode(DeadLetter, record.value or b"")
    assert (dead_letter.reason, dead_letter.value) == ("unknown_schema", unknown), "kept whole, for after the upgrade"


def client_of(registry: RegistryStub) -> Any:
    from schemas.registry import RegistryClient

    return RegistryClient(registry.url)
