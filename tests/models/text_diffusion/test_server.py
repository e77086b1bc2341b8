"""The writer and the reasoner over a real loopback server: good answers, bad ones, slow ones and none."""

from __future__ import annotations

import socket
import time

import pytest

from freshet.records import UserTier
from models.reasoner.cooccurrence import CooccurrenceReasoner
from models.text_diffusion.prompt import MOST_SHOWN, Line, PromptLog, Written
from models.text_diffusion.reasoner import TextDiffusionReasoner
from models.text_diffusion.server import ServerWriter
from processors.users.refresh import UserRefresher
from tests.models.reasoner.reasoner_tools import told
from tests.models.text_diffusion.fake_text_server import FakeTextServer
from tests.models.text_diffusion.text_tools import catalogue, grounder, titles
from tests.support.fakes_llm import MODEL, Trouble

LOG = PromptLog(("green tea",), (1,))
TENT = "1. camping tent\n2. flight to Lisbon"


def lines(writer: ServerWriter, users: int = 1, limit_s: float | None = 20.0) -> list[Written]:
    end = None if limit_s is None else time.monotonic() + limit_s
    return writer.write([LOG] * users, slots=4, end=end)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_each_user_is_asked_with_the_log_and_read_by_line() -> None:
    """Catches answers given to the wrong user, and a server whose model has to be named."""
    with FakeTextServer(lambda log: f"1. more {log.splitlines()[1].removeprefix('1. ')}") as server:
        writer = ServerWriter(server.url)
        written = writer.write([PromptLog((f"thing {n}",), (1,)) for n in range(20)], slots=4, end=None)
        assert [one.lines for one in written] == [(Line(f"more thing {n}"),) for n in range(20)]
        assert writer.name == MODEL
        assert {body["max_tokens"] for body in server.asked} == {96}
        assert not any("response_format" in body for body in server.asked)


def test_no_more_calls_at_once_than_told() -> None:
    """Catches a batch of users thrown at a server all at once."""
    with FakeTextServer(lambda log: TENT, Trouble(delay_s=0.02)) as server:
        assert all(one.lines for one in lines(ServerWriter(server.url, MODEL, concurrency=3), users=12))
        assert server.most == 3


def test_a_server_that_is_down_costs_no_time() -> None:
    """Catches users kept waiting for a server that refuses connections, and one that is asked again at once."""
    now = [0.0]
    writer = ServerWriter(f"http://127.0.0.1:{closed_port()}/v1", MODEL, clock=lambda: now[0])
    begun = time.monotonic()
    assert writer.write([LOG] * 200, slots=4, end=None) == [Written(degraded=True)] * 200
    assert time.monotonic() - begun < 5
    with FakeTextServer(lambda log: TENT) as server:
        writer._url = server.url
        assert not writer.write([LOG], slots=4, end=None)[0].lines
        now[0] = 60.0
        assert writer.write([LOG], slots=4, end=None)[0].lines


def test_a_slow_server_is_given_up_at_the_deadline() -> None:
    """Catches a lease that runs out while a model thinks; what is answered in time counts."""
    with FakeTextServer(lambda log: TENT, Trouble(delay_s=2.0)) as server:
        begun = time.monotonic()
        written = lines(ServerWriter(server.url, MODEL, concurrency=2), users=4, limit_s=3.2)
        assert time.monotonic() - begun < 3.9
    assert [bool(one.lines) for one in written] == [True, True, False, False]
    assert [one.degraded for one in written] == [False, False, True, True]


@pytest.mark.parametrize("trouble", ["500", "garbage", "401", "404", "400"])
def test_a_broken_server_gives_degraded_users(trouble: str) -> None:
    """Catches an error of the server that stops the lane."""
    with FakeTextServer(lambda log: TENT, Trouble(always=trouble)) as server:
        assert lines(ServerWriter(server.url, MODEL), users=3) == [Written(degraded=True)] * 3


@pytest.mark.parametrize("once", ["400", "500", "garbage"])
def test_one_bad_answer_costs_one_user(once: str) -> None:
    """Catches a batch lost to one log that the server cannot take."""
    trouble = Trouble()
    trouble.script.append(once)
    with FakeTextServer(lambda log: TENT, trouble) as server:
        written = lines(ServerWriter(server.url, MODEL, concurrency=1), users=3)
    assert [one.degraded for one in written] == [True, False, False]


def test_a_user_whom_the_server_refuses_does_not_keep_others_waiting() -> None:
    """Catches a pause for everybody after one request that is too long."""
    trouble = Trouble()
    trouble.script.append("400")
    with FakeTextServer(lambda log: TENT, trouble) as server:
        writer = ServerWriter(server.url, MODEL)
        assert not lines(writer)[0].lines
        assert lines(writer)[0].lines


def test_a_batch_gives_up_on_a_server_that_fails_again_and_again() -> None:
    """Catches hundreds of calls to a server that is broken."""
    with FakeTextServer(lambda log: TENT, Trouble(always="500")) as server:
        lines(ServerWriter(server.url, MODEL, concurrency=2), users=100)
        assert len(server.asked) <= 5


def test_a_busy_server_is_asked_again() -> None:
    """Catches users lost to a 429 that would have passed."""
    trouble = Trouble()
    trouble.script.extend(["429", "429"])
    with FakeTextServer(lambda log: TENT, trouble) as server:
        [written] = lines(ServerWriter(server.url, MODEL))
    assert written.lines == (Line("camping tent"), Line("flight to Lisbon"))


def test_a_past_deadline_asks_nobody() -> None:
    """Catches a call that cannot be used any more."""
    with FakeTextServer(lambda log: TENT) as server:
        assert lines(ServerWriter(server.url, MODEL), limit_s=-1.0) == [Written(degraded=True)]
        assert not server.asked


def reasoner(url: str, **given: object) -> TextDiffusionReasoner:
    return TextDiffusionReasoner(ServerWriter(url, MODEL), grounder(), titles, **given)  # type: ignore[arg-type]


def test_a_user_gets_items_and_words_and_a_stranger_nothing() -> None:
    """Catches a reasoner that says something of a user without known items."""
    with FakeTextServer(lambda log: TENT) as server:
        known, stranger = reasoner(server.url).infer(
            [told("u", "i0", "?"), told("v", "?")], catalogue(), slots=4, steps=2, deadline_s=20
        )
        assert len(server.asked) == 1
    assert [(one.item_id, one.text) for one in known.behaviors] == [("i3", ""), ("", "flight to Lisbon")]
    assert not known.degraded
    assert (stranger.behaviors, stranger.degraded) == ((), False)


def test_the_newest_distinct_behaviors_are_shown_at_their_last_event() -> None:
    """Catches a prompt of repeats, of another order, or longer than it may be."""
    with FakeTextServer(lambda log: TENT) as server:
        live = catalogue()
        live.upsert([f"x{n}" for n in range(60)], live.at(live.rows(["i0"] * 60))[0])
        history = told("u", "i0", *(f"x{n}" for n in range(60)), "i1", "x59")
        reasoner(server.url).infer([history], live, slots=4, steps=2)
        shown = server.asked[0]["messages"][-1]["content"].splitlines()[1:-1]
    assert len(shown) == MOST_SHOWN
    assert [line.partition(" ")[2] for line in shown[-3:]] == ["x58", "tea pot", "x59"]


def test_unacceptable_words_are_never_published() -> None:
    """Catches a link or an order to a model that a listing made the model repeat."""
    with FakeTextServer(lambda log: "1. visit http://evil.example\n2. camping tent") as server:
        careful = reasoner(server.url, acceptable=lambda text: "http" not in text)
        [found] = careful.infer([told("u", "i0")], catalogue(), slots=4, steps=2)
    assert [one.item_id for one in found.behaviors] == ["i3"]


def test_the_fallback_answers_while_the_server_is_away() -> None:
    """Catches users without features because a model is down."""
    fallback = CooccurrenceReasoner()
    fallback.observe([told("w", "i0", "i1")])
    away = reasoner(f"http://127.0.0.1:{closed_port()}/v1")
    [inference] = away.infer([told("u", "i0")], catalogue(), slots=4, steps=2, deadline_s=5)
    assert (inference.behaviors, inference.degraded) == ((), True)
    refresher = UserRefresher(away, fallback, "v1", lambda: 1, 4, 2, deadline_s=5)
    [user] = refresher.refresh([told("u", "i0")], catalogue())
    assert (user.tier, user.reasoner) == (UserTier.FALLBACK, "cooccurrence")
    assert [one.item_id for one in user.behaviors] == ["i1"]
