"""One line a phase: a spinner and a bar while it runs, a tick and its outcome when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Step:
    """The phase under way: `report` moves its bar, `say` sets what its line says at the end."""

    def __init__(self, progress: Progress, task: TaskID, title: str) -> None:
        self._progress = progress
        self._task = task
        self._title = title
        self.outcome = ""

    def report(self, stage: str, done: float, total: float) -> None:
        """What the phase is doing, and how far it is."""
        self._progress.update(self._task, description=f"{self._title}: {stage}", completed=done, total=total or None)

    def say(self, outcome: str) -> None:
        """What came of it."""
        self.outcome = outcome


class Steps:
    """Prints phases, one after the other."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One phase; an exception leaves a cross and goes on."""
        began = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        mark = "[red]✗[/]"
        if not self._console.is_terminal:
            self._console.print(f"  {title} …", highlight=False)
        with Progress(*columns, console=self._console, transient=True) as progress:
            step = Step(progress, progress.add_task(title, total=None), title)
            try:
                yield step
                mark = "[green]✓[/]"
            finally:
                progress.stop()
                took = f"[dim]{time.monotonic() - began:.0f} s[/]"
                outcome = f": {step.outcome}" if step.outcome else ""
                self._console.print(f"{mark} {title}{outcome} {took}", highlight=False)
