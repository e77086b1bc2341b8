"""What this process has made part of its version, so that it can say so again to a Redis that has lost it.

Owns the list. Must not know what the components are, nor what a version allows (`store.versions`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from store.versions import Versions
from streams.identity import worker_name


class ComponentPins:
    """The components that one worker pins in one version."""

    def __init__(self, versions: Versions, version: str) -> None:
        self._versions, self._version = versions, version
        self._pinned: dict[str, str] = {}

    async def pin(self, components: Mapping[str, str]) -> None:
        """Pin these. Raises `VersionConflict`, `VersionRetiring`, and redis errors, after which it may be repeated."""
        self._pinned |= components
        await asyncio.to_thread(self._versions.pin, self._version, components, by=worker_name())

    @property
    def all(self) -> dict[str, str]:
        """All that was pinned so far."""
        return dict(self._pinned)
