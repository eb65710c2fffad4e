"""What the command line takes for prompts."""

from __future__ import annotations

import io
import json

import pytest

from cli.prompts import InputError, Prompt, read


def stdin(text):
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="ascii")  # as a locale may have it


def test_a_text_is_a_prompt():
    assert read("Why is it blue?") == [Prompt("1", {"prompt": "Why is it blue?"})]


def test_a_txt_file_has_a_prompt_a_line(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("one\n\n  two  \n{three}\n")
    assert [(a.label, a.request["prompt"]) for a in read(str(file))] == [
        ("1", "one"),
        ("3", "two"),
        ("4", "{three}"),
    ]


def test_a_jsonl_file_has_requests_or_lines_of_openais_batch_format(tmp_path):
    file = tmp_path / "p.jsonl"
    body = {"messages": [{"role": "user", "content": "x"}]}
    lines = [{"prompt": "one", "custom_id": "a"}, {"custom_id": "b", "body": body}]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    assert read(str(file)) == [Prompt("a", {"prompt": "one"}), Prompt("b", body)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON: column 2: a field's name in double quotes is missing$"),
        ('{"prompt": "x", "n": NaN}', "line 2: not JSON: it has a number that is not finite"),
        ('{"prompt": "x", "n": 1e999}', "line 2: not JSON: it has a number that is not finite"),
        ('{"prompt": "x", "n": ' + "9" * 5000 + "}", "line 2: not JSON: it has a number of too"),
        ('{"prompt": "\\ud800"}', "line 2: not JSON: it has half a character"),
        ("[" * 100_000, "line 2: not JSON: it is nested too deep"),
        ("[]", "line 2: must be an object"),
        ("{}", "line 2: needs either prompt or messages"),
        ('{"prompt": "x", "messages": []}', "line 2: needs either"),
        ('{"body": 1}', "line 2: needs either"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, said):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(InputError, match=said):
        read(str(file))


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", stdin("one\ntwo\n"))
    assert [a.request["prompt"] for a in read("-")] == ["one", "two"]
    monkeypatch.setattr("sys.stdin", stdin('{"prompt": "json"}\n'))
    assert [a.request["prompt"] for a in read("-")] == ["json"]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_file_that_holds_nothing_is_an_error(tmp_path, content):
    file = tmp_path / "p.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError):
        read(str(file))


def test_an_empty_prompt_is_an_error():
    with pytest.raises(InputError, match="empty"):
        read("  ")


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("one\u2028still\x0cone\x85\r\ntwo\r\n".encode())
    assert [a.request["prompt"] for a in read(str(file))] == ["one\u2028still\x0cone", "two"]
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a\u2028b"}\n', encoding="utf-8")
    assert [a.request["prompt"] for a in read(str(file))] == ["a\u2028b"]


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path, monkeypatch):
    for name, content in (("p.txt", "\ufeffone"), ("p.jsonl", '\ufeff{"prompt": "one"}')):
        file = tmp_path / name
        file.write_text(content, encoding="utf-8")
        assert read(str(file)) == [Prompt("1", {"prompt": "one"})]
    monkeypatch.setattr("sys.stdin", stdin("\ufeffone\n"))
    assert read("-") == [Prompt("1", {"prompt": "one"})]
