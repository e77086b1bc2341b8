"""The architecture page and the alerts know every lane; run as a script, this writes the page's table."""

from __future__ import annotations

import re
from pathlib import Path

from docs.generators.lanes_table import updated
from streams.lanes.table import asking, subscriptions
from streams.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = next(
    page for page in (ROOT / "docs" / "design" / "architecture.md", ROOT / "docs" / "architecture.md") if page.exists()
)
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"


def test_the_table_is_current() -> None:
    """Catches a lane added or changed without its documentation."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == updated(page), "run: python -m tests.docs.test_lanes_table"


def test_every_lane_that_reads_kafka_has_an_alert_on_its_lag() -> None:
    """Catches a lane that falls behind unseen; one that asks an LLM may be behind for longer, so has its own alert."""
    lags = re.findall(r'freshet_lag_seconds\{lane=~?"([^"]+)"\}', RULES.read_text(encoding="utf-8"))
    alerted = [frozenset(lanes.split("|")) for lanes in lags]
    reading = {one.lane for one in subscriptions(Settings.load({}))}
    slow = reading & set(asking("llm"))
    assert set(alerted) == {frozenset(slow), frozenset(reading - slow)}


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
