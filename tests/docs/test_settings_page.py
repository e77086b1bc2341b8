"""The reference of settings is what the code has."""

from __future__ import annotations

from docs.generators.settings_page import PAGE, page


def test_page_is_current() -> None:
    """Catches a setting added or changed without its documentation."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.generators.settings_page"
