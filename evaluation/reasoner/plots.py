"""What was measured as PNG files. Owns the figures, and is the only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, Mapping[str, Any]]


class NoPlots(ImportError):
    """matplotlib is not installed; the message says what to do."""


def draw(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """`models.png`, and `steps.png`, `enrichment.png`, `held_out.png` where these were measured."""
    try:
        import matplotlib
    except ImportError as error:
        raise NoPlots("plots need matplotlib: pip install '.[evaluate]' in the checkout") from error
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    protocols = {"leave last out": found["models"]}
    if "time_split" in found:
        protocols["time split"] = found["time_split"]["models"]
    files = [_bars(folder / "models.png", protocols, "ndcg10", "NDCG@10, next new item")]
    if len(_stepped(found["models"])) > 1:
        files.append(_steps(folder / "steps.png", found))
    if "enrichment" in found:
        files.append(_bars(folder / "enrichment.png", found["enrichment"], "tuned", "recall@50 of the next 16"))
    held: dict[str, Figures] = {}
    if "cold" in found:
        held["cold items, HR@10"] = _only(found["cold"], "hr10")
    if "hidden_category" in found:
        held["hidden category, recall@16"] = _only(found["hidden_category"], "recall")
    if held:
        files.append(_bars(folder / "held_out.png", held, "value", "held out of training and history"))
    return files


def _only(figures: Figures, measure: str) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": each[measure], "value_interval": each[f"{measure}_interval"]} for name, each in figures.items()
    }


def _bars(file: Path, panels: Mapping[str, Figures], measure: str, title: str) -> Path:
    """One panel each, a bar a model, its interval on it."""
    from matplotlib.figure import Figure

    tallest = max(len(figures) for figures in panels.values())
    figure = Figure(figsize=(5.5 * len(panels), 1.2 + 0.32 * tallest), layout="constrained")
    for axes, (name, figures) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        models = list(figures)[::-1]
        values, errors = _errors([figures[model] for model in models], measure)
        colours = ["tab:orange" if model.startswith(("ours", "ensemble")) else "tab:blue" for model in models]
        axes.barh(models, values, xerr=errors, color=colours, ecolor="0.3", capsize=2)
        axes.set_title(name)
    figure.suptitle(title)
    figure.savefig(file, dpi=120)
    return file


def _steps(file: Path, found: Mapping[str, Any]) -> Path:
    """Measures of the inferred set by denoising steps; a dotted line is the same network's next-item ranking."""
    from matplotlib.figure import Figure

    panels = [("models", "ndcg10")]
    if "sets" in found:
        panels += [("sets", measure) for measure in ("recall16", "diversity", "categories")]
    if "hidden_category" in found:
        panels += [("hidden_category", measure) for measure in ("found", "recall")]
    figure = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    for axes, (stage, measure) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        figures = found[stage]
        models = _stepped(figures)
        steps = [int(name.removeprefix("ours_")) for name in models]
        values, errors = _errors([figures[model] for model in models], measure)
        axes.errorbar(steps, values, yerr=errors, marker="o", capsize=2, color="tab:orange")
        alone = figures.get("next_item") or figures["ours"]
        axes.axhline(alone[measure], color="0.4", linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.set_title(f"{stage.replace('_', ' ')}: {measure}")
        axes.set_xlabel("steps")
    figure.savefig(file, dpi=120)
    return file


def _stepped(figures: Figures) -> list[str]:
    return [name for name in figures if name.startswith("ours_")]


def _errors(each: Sequence[Mapping[str, Any]], measure: str) -> tuple[list[float], list[list[float]]]:
    """Values, and how far the interval reaches below and above."""
    values = [figure[measure] for figure in each]
    ends = [figure[f"{measure}_interval"] for figure in each]
    below = [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)]
    return values, [below, above]
