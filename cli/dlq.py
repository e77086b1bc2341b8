"""`freshet dlq`: look at dead letters, send their records again, remove them.

Owns the options and the order of things. What a letter is and how it goes is `streams.jobs.dead_letters`'s; how it
looks is `cli.dlq_view`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace as replace_fields
from typing import Any

import click

from cli import dlq_view as page
from cli.session import OperatorSession, Time, counted, operator_session
from schemas.codec import Codec
from store.scan import Pace
from streams.errors import DeliveryFailed, RecordTooLarge
from streams.jobs.dead_letters.read import Filter, Position, StoredDeadLetter, dead_letter_ranges, read_dead_letters
from streams.jobs.dead_letters.resend import send_again
from streams.jobs.dead_letters.rewrite import Busy, drop
from streams.kafka.producer import KafkaProducer
from streams.kafka.ranges import NoTopic
from streams.kafka.topics import Topics

SUFFIX = Topics.dead_letters("")


@click.group()
def dlq() -> None:
    """Inspect dead letters, send their records again, remove them.

    Records that are sent again take the normal lanes.

    TOPIC is a topic or its dead letters (items, items.dlq); without one, all are meant. TIME is 2026-11-25T04:00 (UTC),
    epoch milliseconds, or how long ago: 90s, 30m, 12h, 7d. Exit code 0: done; 1: refused or failed; 2: wrong options.
    """


def chosen(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose dead letters."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Answer as JSON."),
        click.option("--key", help="The record's key."),
        click.option("--to", "to_ms", type=Time(), default=0, metavar="TIME", help="Failed before this."),
        click.option("--from", "from_ms", type=Time(), default=0, metavar="TIME", help="Failed then or later."),
        click.option("--exception", "exceptions", multiple=True, help="Class of the error; may be repeated."),
        click.option("--stage", "stages", multiple=True, help="Lane, or lane/step; may be repeated."),
        click.option("--reason", "reasons", multiple=True, help="Reason; may be repeated."),
        click.argument("names", nargs=-1, metavar="[TOPIC]..."),
    ):
        command = option(command)
    return command


def filter_of(
    reasons: Sequence[str], stages: Sequence[str], exceptions: Sequence[str], from_ms: int, to_ms: int, key: str | None
) -> Filter:
    """The options as a filter."""
    return Filter(
        frozenset(reasons), tuple(stages), frozenset(exceptions), from_ms, to_ms, None if key is None else key.encode()
    )


@dlq.command("list")
@chosen
def list_dead_letters(names: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Count dead letters by topic, reason and stage."""
    with opened() as (session, codec):
        groups = page.Groups()
        which = filter_of(**options)
        for dead_letter in _letters(session, codec, _topics(session, names), as_json):
            if which(dead_letter):
                groups.add(dead_letter)
    page.show_groups(groups, as_json)


@dlq.command()
@click.argument("positions", nargs=-1, required=True, metavar="POSITION...")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON per dead letter.")
def show(positions: tuple[str, ...], as_json: bool) -> None:
    """Show dead letters whole.

    POSITION is the record's, such as items/3/1842; `list` names examples.
    """
    wanted = _positions(positions)
    with opened() as (session, codec):
        topics = {one.topic if one.topic.endswith(SUFFIX) else Topics.dead_letters(one.topic) for one in wanted}
        which = Filter(positions=wanted)
        found = [dead_letter for dead_letter in _letters(session, codec, sorted(topics), as_json) if which(dead_letter)]
        for dead_letter in found:
            page.show_dead_letter(dead_letter, codec, Topics(session.settings), as_json)
    if missing := wanted - {dead_letter.position for dead_letter in found}:
        raise click.ClickException(f"no dead letter of {', '.join(map(str, sorted(missing)))}")


@dlq.command()
@chosen
@click.option("--position", "positions", multiple=True, help="One record, such as items/3/1842; may be repeated.")
@click.option("--rate", type=click.FloatRange(min=0), default=0.0, help="Records a second; 0: no limit.")
@click.option("--keep", is_flag=True, help="Leave the dead letters where they are.")
@click.option("--execute", is_flag=True, help="Do it; without it, only say what would be done.")
def replay(
    names: tuple[str, ...], positions: tuple[str, ...], rate: float, keep: bool, execute: bool, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Send the records again, untouched.

    They go to their own topics; their dead letters are removed afterwards.

    They go through the normal lanes: what still cannot be processed becomes a dead letter again, its attempt counted
    up; a record older than the stored state does not win. A record that two lanes refused is sent once.
    """
    with opened() as (session, codec):
        which = _which(options, positions)
        topics = _topics(session, names)
        if not execute:
            _tell(session, codec, topics, which, "sent again", as_json)
            return
        sent = removed = 0
        producer = KafkaProducer(session.settings)
        try:
            for topic in topics:
                with counted(f"Sending again from {topic}", as_json) as advance:
                    matching = (one for one in _letters(session, codec, [topic], quiet=True) if which(one))
                    done = _send(producer, matching, rate, advance)
                sent += len(done)
                if done and not keep:
                    # A record sent again has another offset: its next dead letter is not among these.
                    gone = drop(session.settings, session.client, codec, topic, Filter(positions=done))
                    removed += gone.dropped
        finally:
            producer.close()
    page.show_done({"sent": sent, "removed": removed}, as_json)


@dlq.command()
@chosen
@click.option("--position", "positions", multiple=True, help="One record, such as items/3/1842; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Needed where no option chooses.")
@click.option("--execute", is_flag=True, help="Do it; without it, only say what would be done.")
def purge(
    names: tuple[str, ...], positions: tuple[str, ...], everything: bool, execute: bool, as_json: bool, **options: Any
) -> None:
    """Remove dead letters for good."""
    which = _which(options, positions)
    if not which and not everything:
        raise click.UsageError("say which dead letters, or --all")
    with opened() as (session, codec):
        topics = _topics(session, names)
        if not execute:
            _tell(session, codec, topics, which, "removed", as_json)
            return
        removed = 0
        for topic in topics:
            with counted(f"Removing from {topic}", as_json):
                removed += drop(session.settings, session.client, codec, topic, which).dropped
    page.show_done({"removed": removed}, as_json)


@contextmanager
def opened() -> Iterator[tuple[OperatorSession, Codec]]:
    """The operator session, and the codec of its settings."""
    with operator_session("kafka", refusals=(NoTopic, Busy, DeliveryFailed, RecordTooLarge)) as session:
        from streams.wiring.resources import Resources

        yield session, Resources(session.settings).codec


def _topics(session: OperatorSession, names: Sequence[str]) -> list[str]:
    """The dead-letter topics of `names`, or all."""
    known = Topics(session.settings).dead_letter_topics
    if not names:
        return known
    prefix = session.settings.topic_prefix
    wanted = []
    for name in names:
        dead_letters = name if name.endswith(SUFFIX) else Topics.dead_letters(name)
        wanted.append(
            dead_letters if dead_letters in known or dead_letters.startswith(prefix) else prefix + dead_letters
        )
    return wanted


def _letters(session: OperatorSession, codec: Codec, topics: Sequence[str], quiet: bool) -> Iterator[StoredDeadLetter]:
    with counted("Reading dead letters", quiet) as advance:
        for topic in topics:
            for dead_letter in read_dead_letters(session.settings, codec, dead_letter_ranges(session.settings, topic)):
                advance(1)
                yield dead_letter


def _which(options: dict[str, Any], positions: Sequence[str]) -> Filter:
    return replace_fields(filter_of(**options), positions=_positions(positions))


def _positions(texts: Sequence[str]) -> frozenset[Position]:
    try:
        return frozenset(Position.parse(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="POSITION") from error


def _tell(
    session: OperatorSession, codec: Codec, topics: Sequence[str], which: Filter, what: str, as_json: bool
) -> None:
    groups = page.Groups()
    for dead_letter in _letters(session, codec, topics, as_json):
        if which(dead_letter):
            groups.add(dead_letter)
    page.show_groups(groups, as_json, dry_run=what)


def _send(
    producer: KafkaProducer, dead_letters: Iterator[StoredDeadLetter], rate: float, advance: Callable[[int], None]
) -> frozenset[Position]:
    done: set[Position] = set()
    pace = Pace(rate) if rate else None

    def sent(dead_letter: StoredDeadLetter) -> None:
        done.add(dead_letter.position)
        advance(1)

    send_again(producer, dead_letters, pace=lambda: pace.spend(1) if pace else None, sent=sent)
    return frozenset(done)
