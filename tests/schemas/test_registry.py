"""Confluent framing against a registry over real HTTP, on its good days and its bad ones."""

from __future__ import annotations

import base64
import io
import json
import socket
from collections.abc import Iterator

import fastavro
import pytest
from hypothesis import given, settings

from freshet.records import Item, UserEvent
from schemas.codec import Codec, DecodeError, RegistryClient, RegistryRejected, RegistryUnavailable, schema_json
from schemas.registry import UNKNOWN_FOR_S, UnknownSchemaId
from tests.support import strategies
from tests.support.registry_stub import RegistryStub, registry_stub

ITEM = Item("i1", 1_700_000_000_000, "Tea", price=3.5)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def stub() -> Iterator[RegistryStub]:
    with registry_stub() as running:
        yield running


def test_frames_with_the_id_of_the_topics_subject(stub: RegistryStub) -> None:
    """Catches a wrong byte order, a wrong subject, or a schema without its logical types in the registry."""
    stub.add('"string"')
    data = Codec(RegistryClient(stub.url)).encode(ITEM, "shop.items")
    assert data[:5] == b"\x00\x00\x00\x00\x02"
    assert data[5:] == Codec().encode(ITEM)[10:]
    assert stub.subjects == {"shop.items-value": [2]}
    assert json.loads(stub.schemas[2]["schema"]) == json.loads(schema_json(Item))


def test_every_record_comes_back(stub: RegistryStub) -> None:
    """Catches a framing that fits one contract and not another, and a call a record."""
    writer, reader = Codec(RegistryClient(stub.url)), Codec(RegistryClient(stub.url))

    @settings(max_examples=60)
    @given(strategies.records)
    def comes_back(record: object) -> None:
        topic = type(record).__name__
        assert reader.decode(type(record), writer.encode(record, topic)) == record  # type: ignore[type-var, arg-type]

    comes_back()
    assert len(stub.requests) <= 3 * len(stub.subjects)


def test_both_framings_are_read_with_a_registry(stub: RegistryStub) -> None:
    """Catches a codec that, once a registry is configured, no longer reads the log from before."""
    codec = Codec(RegistryClient(stub.url))
    assert codec.decode(Item, Codec().encode(ITEM)) == ITEM
    assert codec.decode(Item, codec.encode(ITEM, "items")) == ITEM


def test_encoding_without_a_topic_is_refused(stub: RegistryStub) -> None:
    """Catches a record under the subject "-value"."""
    with pytest.raises(ValueError, match="topic"):
        Codec(RegistryClient(stub.url)).encode(ITEM)


def test_a_platforms_own_schema_is_resolved(stub: RegistryStub) -> None:
    """Catches refusing a producer with another namespace, an extra field and one field fewer."""
    schema = json.loads(schema_json(Item))
    schema["namespace"] = "com.shop"
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "brand"]
    schema["fields"].append({"name": "colour", "type": {"type": "string", "avro.java.string": "String"}})
    number = stub.add(json.dumps(schema))
    out = io.BytesIO()
    values = {"item_id": "i1", "event_time": 5, "title": "Tea", "colour": "green"}
    fastavro.schemaless_writer(out, schema, values)
    data = b"\x00" + number.to_bytes(4, "big") + out.getvalue()
    codec = Codec(RegistryClient(stub.url))
    assert codec.decode(Item, data) == Item("i1", 5, "Tea")
    assert codec.decode(Item, data) == Item("i1", 5, "Tea")
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "schema",
    ['"string"', "[]", "{}", "no json", schema_json(UserEvent), '{"type": "record", "name": "Item", "fields": 3}'],
)
def test_a_schema_of_something_else_is_poison(stub: RegistryStub, schema: str) -> None:
    """Catches a crash of the lane, or a record read as what it is not."""
    data = b"\x00" + stub.add(schema).to_bytes(4, "big") + b"payload"
    with pytest.raises(DecodeError) as caught:
        Codec(RegistryClient(stub.url)).decode(Item, data)
    assert (caught.value.reason, caught.value.schema_id) == ("unknown_schema", "1")


def test_a_schema_that_does_not_resolve_is_poison(stub: RegistryStub) -> None:
    """Catches an incompatible schema of the right name (its title a number)."""
    schema = json.loads(schema_json(Item))
    schema["fields"][2]["type"] = "double"
    data = b"\x00" + stub.add(json.dumps(schema)).to_bytes(4, "big") + b"\x02a" + b"\x00" * 30
    with pytest.raises(DecodeError) as caught:
        Codec(RegistryClient(stub.url)).decode(Item, data)
    assert caught.value.reason == "unknown_schema"


def test_protobuf_under_the_id_is_poison(stub: RegistryStub) -> None:
    """Catches parsing another format's schema as Avro."""
    number = stub.add("message Item {}", schemaType="PROTOBUF")
    with pytest.raises(DecodeError, match="unknown_schema"):
        Codec(RegistryClient(stub.url)).decode(Item, b"\x00" + number.to_bytes(4, "big"))


def test_404_is_poison_and_asked_once_in_a_while(stub: RegistryStub) -> None:
    """Catches a stream of poison becoming a stream of HTTP calls, and a 404 that is believed for ever."""
    now = [0.0]
    codec = Codec(RegistryClient(stub.url, monotonic=lambda: now[0]))
    data = b"\x00\x00\x00\x00\x01" + Codec().encode(ITEM)[10:]
    for _ in range(3):
        with pytest.raises(DecodeError) as caught:
            codec.decode(Item, data)
        assert (caught.value.reason, caught.value.schema_id) == ("unknown_schema", "1")
    assert len(stub.requests) == 1
    stub.add(schema_json(Item))
    now[0] += UNKNOWN_FOR_S + 1
    assert codec.decode(Item, data) == ITEM


@pytest.mark.parametrize("status", [200, 404, 408, 429, 500, 503])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]"])
def test_a_registry_that_is_not_itself_is_transient(stub: RegistryStub, status: int, body: bytes) -> None:
    """Catches a dead letter, or a stopped worker, because a proxy stood in for the registry for a minute."""
    client = RegistryClient(stub.url)
    codec = Codec(client)
    stub.answer_with = (status, body)
    with pytest.raises(RegistryUnavailable):
        codec.decode(Item, b"\x00\x00\x00\x00\x01payload")
    with pytest.raises(RegistryUnavailable):
        codec.encode(ITEM, "items")
    stub.answer_with = None
    assert codec.decode(Item, codec.encode(ITEM, "items")) == ITEM


def test_nobody_listening_and_nobody_answering_are_transient() -> None:
    """Catches a connect error or a time-out that passes as something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts by its backlog and never answers
        port = server.getsockname()[1]
        with pytest.raises(RegistryUnavailable):
            RegistryClient(f"http://127.0.0.1:{port}", timeout_s=0.1).schema(1)
    with pytest.raises(RegistryUnavailable):
        RegistryClient(f"http://127.0.0.1:{port}", timeout_s=0.1).schema(1)


@pytest.mark.parametrize("status", [401, 403, 409, 422])
def test_a_no_of_the_registry_is_fatal(stub: RegistryStub, status: int) -> None:
    """Catches retrying for ever what only a person can mend."""
    stub.answer_with = (status, b'{"error_code": 1, "message": "no"}')
    with pytest.raises(RegistryRejected, match=str(status)):
        Codec(RegistryClient(stub.url)).encode(ITEM, "items")
    with pytest.raises(RegistryRejected, match=str(status)):
        RegistryClient(stub.url).schema(1)


def test_without_auto_registration_nothing_is_registered(stub: RegistryStub) -> None:
    """Catches a production worker that changes a subject's schema."""
    client = RegistryClient(stub.url, auto_register=False)
    with pytest.raises(RegistryRejected, match="auto-registration is off"):
        client.register("items-value", schema_json(Item))
    assert stub.subjects == {}
    held = stub.add(schema_json(Item), "items-value")
    assert client.register("items-value", schema_json(Item)) == held


def test_credentials_go_into_the_header_only(stub: RegistryStub) -> None:
    """Catches a password in a URL that ends in a log or an error."""
    number = stub.add(schema_json(Item))
    client = RegistryClient(stub.url.replace("//", "//me:hun%2Fter2@"))
    client.schema(number)
    assert stub.authorization == ["Basic " + base64.b64encode(b"me:hun/ter2").decode()]
    assert "ter2" not in repr(client)
    stub.answer_with = (500, b"")
    with pytest.raises(RegistryUnavailable) as caught:
        client.schema(99)
    assert "ter2" not in str(caught.value)


def test_a_wrong_url_is_refused_at_once() -> None:
    """Catches file:// or a bare host failing at the first record instead of at the start."""
    for url in ("registry:8081", "file:///etc/passwd", "http://"):
        with pytest.raises(ValueError, match="registry URL"):
            RegistryClient(url)


def test_unknown_id_is_a_lookup_error(stub: RegistryStub) -> None:
    """Catches a client used alone that cannot tell unknown from unavailable."""
    with pytest.raises(UnknownSchemaId):
        RegistryClient(stub.url).schema(7)
