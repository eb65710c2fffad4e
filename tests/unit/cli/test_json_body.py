"""What is sent is JSON, and what cannot be is told."""

from __future__ import annotations

import json

import pytest

from cli.json_body import NoJsonError, decoded, encoded


@pytest.mark.parametrize("value", [None, 5, "é \u2028 \x00", {"a": [1.5, True, {}]}])
def test_what_is_json_comes_back(value):
    assert decoded(encoded(value).decode()) == json.loads(encoded(value)) == value


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (float("nan"), "not finite"),
        ([float("-inf")], "not finite"),
        ({"model": "\udcff"}, "half a character"),
        ({"\ud800": 1}, "half a character"),
    ],
)
def test_what_is_none_is_told(value, fault):
    with pytest.raises(NoJsonError, match=fault):
        encoded(value)
