"""Metrics page, dashboard, alerts and runbook agree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.generators.metrics_page import LABELS, READER, series
from streams.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "freshet.json"
RUNBOOK = ROOT / "docs" / "use" / "operators" / "runbook.md"
UNITS = (
    "_total",
    "_seconds",
    "_bytes",
    "_records",
    "_tokens",
    "_calls",
    "_offset",
    "_users",
    "_items",
    "_off",
    "_stalled",
)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> list[str]:
    asked = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    return [*asked, *(rule["expr"] for rule in rules())]


def known() -> dict[str, set[str]]:
    """Every series that can be asked for, with its labels."""
    found = {name: set(labels) for name, (_, labels, _) in series(Metrics()).items()}
    for name, _, labels, _ in READER:
        found.setdefault(name, set()).update(labels.split(", ") if labels else ())
    kinds = {name: kind for name, (kind, _, _) in series(Metrics()).items()} | {one[0]: one[1] for one in READER}
    for name, kind in kinds.items():
        if kind == "histogram":
            for suffix in ("_bucket", "_sum", "_count"):
                found[name + suffix] = found[name] | ({"le"} if suffix == "_bucket" else set())
    return found


def test_names_have_units_and_labels_are_bounded() -> None:
    """Catches a metric without unit, and a label that nobody has said the values of."""
    for name, (_, labels, about) in series(Metrics()).items():
        assert name.startswith("freshet_")
        assert name.endswith(UNITS), name
        assert about.endswith("."), name
        assert set(labels) <= LABELS.keys(), name


def test_dashboard_and_alerts_ask_for_what_there_is() -> None:
    """Catches a panel that is always empty and an alert that never fires, as a metric or label was renamed."""
    there = known()
    asked = set()
    for expression in expressions():
        for name, selector in re.findall(r"\b(freshet_\w+)\b(?:\{([^}]*)\})?", expression):
            assert name in there, f"{name} in {expression}"
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            assert labels <= there[name] | {"job", "instance"}, f"{labels} in {expression}"
            asked.add(name)
        grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
        assert grouped - {"le", "job", "instance"} <= set().union(*there.values()), expression
    assert len(asked) > 15


def test_every_alert_has_its_entry_in_the_runbook_and_the_other_way_round() -> None:
    """Catches an alert at 3 a.m. that nobody wrote down what to do about."""
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    text = RUNBOOK.read_text(encoding="utf-8")
    entries = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert entries.keys() == alerts.keys()
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"docs/use/operators/runbook.md#{name.lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["for"]
        for part in ("**Means**", "**Look**", "**Do**"):
            assert part in entries[name], f"{name} lacks {part}"


def test_panels_are_whole() -> None:
    """Catches a panel that Grafana would refuse or show without a title or unit."""
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["title"]
        assert panel["gridPos"].keys() == {"x", "y", "w", "h"}
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: prometheus) to check the rules with")
def test_prometheus_takes_the_rules() -> None:
    """Catches an expression that Prometheus refuses."""
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
