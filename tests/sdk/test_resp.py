"""Requests as bytes: what hiredis would pack, whatever an id holds."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet._resp import pack_mget

texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["\r\n", "$3\r\nDEL", "ü", "\0", ""])


@given(st.lists(texts, max_size=3), texts, st.lists(texts, max_size=20))
def test_packs_as_hiredis_does(heads: list[str], stem: str, ids: list[str]) -> None:
    """Catches a length in characters instead of bytes, and an id that ends a command and begins another."""
    command: Any = ("MGET", *heads, *[stem + one for one in ids])
    assert pack_mget(heads, stem, ids) == hiredis.pack_command(command)


@pytest.mark.parametrize("wrong", [7, None, b"a", ["a"]])
def test_an_id_that_is_no_text_is_named(wrong: Any) -> None:
    """Catches a reader that asks for the item `b'a'`, or fails without saying over which id."""
    with pytest.raises(TypeError, match="an id is "):
        pack_mget([], "f:v1:i:", ["a", wrong])


def test_text_without_bytes_is_refused() -> None:
    """Catches half a request on the wire."""
    with pytest.raises(UnicodeEncodeError):
        pack_mget([], "f:v1:i:", ["\ud800"])
