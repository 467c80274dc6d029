"""Pieces of answers by themselves."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http.routes.answers import item_path


@given(st.text(st.characters(codec="utf-8")))
@pytest.mark.parametrize("prefix", ["", "a/b-c_d.e~f", "%2F", "ä"])
def test_the_path_of_an_item_is_its_key_encoded(prefix: str, key: str) -> None:
    assert item_path(prefix + key) == "/items/" + quote(prefix + key, safe="")
