"""A body is read where it is used, as it was sent."""

from __future__ import annotations

import msgspec
import pytest

from fallback_chain import Body, Need, Needs

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
TEXT = {"messages": [{"role": "user", "content": 'Ünïcode " \\ \n'}], "x": [1.5, None, {"a": []}]}


@pytest.mark.parametrize(
    ("fields", "named", "model", "sent"),
    [
        ({}, None, "", {}),
        ({}, "m", "", {"model": "m"}),
        ({"model": "a"}, None, "a", {"model": "a"}),
        ({"model": "a"}, "m", "a", {"model": "m"}),
        ({"model": 7}, None, "", {"model": 7}),
        ({"model": None}, "m", "", {"model": "m"}),
        ({"stream": True, "stream_options": {"include_usage": True}}, "m", "", {"model": "m"}),
    ],
)
def test_what_is_sent_is_what_came_with_another_model_and_whole(fields, named, model, sent):
    body = Body.of({**TEXT, **fields})
    assert body.model == model
    assert msgspec.json.decode(body.sent(named)) == {**TEXT, **sent}


def test_a_body_is_as_it_was_written():
    text = b'{ "a" : 1e2, "model":"x", "a\\u0062": "\\u00e9\\/" }'
    assert Body(text).sent("m") == b'{"a":1e2,"model":"m","ab":"\\u00e9\\/"}'
    assert Body(text).decoded() == {"a": 100.0, "model": "x", "ab": "é/"}


def test_its_needs_are_read_once(monkeypatch):
    body = Body.of({**TEXT, "n": 2})
    assert body.needs.kinds == {Need.N}
    monkeypatch.setattr(Needs, "of", lambda _: pytest.fail("again"))
    assert body.needs.kinds == {Need.N}
    assert Body.of(body) is body


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"a":', b'"x"', b'{"a":"\xff"}'])
@pytest.mark.parametrize("read", ["needs", "model", "decoded"])
def test_what_is_no_object_cannot_be_read(text, read):
    with pytest.raises(UNREADABLE):
        getattr(Body(text), read)()
