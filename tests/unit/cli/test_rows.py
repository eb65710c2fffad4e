"""Files of prompts of every kind, and what is said of those that cannot be read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import threading
import zipfile
from pathlib import Path

import pytest

from cli import input_file
from cli.input_file import InputFile, input_files
from cli.output import OutputError, free_name, writing
from cli.prompts import InputError, Shape, read
from cli.rows import is_file, rows_of

TABLE = 'id,question\n7,What is 2+2?\n8,"Why,\nreally?"\n'
CHAT_LINE = {"custom_id": "2", "method": "POST", "url": "/v1/chat/completions"}


@pytest.fixture
def file(tmp_path):
    def file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return file


@pytest.mark.parametrize(
    ("name", "content", "shape", "prompts"),
    [
        ("p.csv", TABLE, Shape(column="question"), ["What is 2+2?", "Why,\nreally?"]),
        ("p.csv", TABLE, Shape(template="{id}: {question}{{}}"), ["7: What is 2+2?{}", None]),
        ("p.csv", "\ufefftext\nsolo\n", Shape(), ["solo"]),
        ("p.csv", "a;prompt\n1;x, y\n", Shape(), ["x, y"]),
        ("p.csv", '5" tv;prompt\n1;x\n', Shape(), ["x"]),
        ("p.csv", '"a ""b,c"", d,e";prompt\n1;x\n', Shape(), ["x"]),
        ("p.tsv", "a\tprompt\n1\tx\n", Shape(), ["x"]),
        ("p.tsv", "How, truly, are you?\tprompt\nWell, so, so\tx\n", Shape(), ["x"]),
        ("p.tsv", "Why, then?\nx, y\n", Shape(), ["x, y"]),
        ("p.csv", '"How, truly, are you?";prompt\nWell;x\n', Shape(), ["x"]),
        ("p.csv", "prompt,,\nx,,\ny,,z\n", Shape(), ["x", "y"]),
        ("p.csv", "sep=;\na;prompt\n1;x, y\n", Shape(), ["x, y"]),
        ("p.csv", "\ufeffSEP=|\r\na|prompt\r\n1|x\r\n", Shape(), ["x"]),
        ("p.csv", "sep=\t\na\tprompt\n1\tx\n", Shape(), ["x"]),
        ("p.csv", "sep=\nx\n", Shape(), ["x"]),
        ("p.json", '["a", {"prompt": "b"}]', Shape(), ["a", "b"]),
        ("p.json", '[{"q": {"n": 1}}]', Shape(column="q"), ['{"n": 1}']),
        ("p.jsonl", '{"q": "x"}\n', Shape(template="Say {q}"), ["Say x"]),
        ("p.txt", "x\n", Shape(template="Say {prompt}"), ["Say x"]),
    ],
)
def test_rows_become_prompts(file, name, content, shape, prompts):
    found = [prompt.request["prompt"] for prompt in read(file(name, content), shape)]
    assert len(found) >= len(prompts)
    assert all(want is None or want == got for want, got in zip(prompts, found, strict=True)), found


@pytest.mark.parametrize(
    ("name", "content", "shape", "said"),
    [
        ("p.csv", TABLE, Shape(), 'needs .*; say which .* --column "id", or "question"$'),
        ("p.csv", ",text\n0,x\n", Shape(), 'say which field is the prompt: --column "text"$'),
        ("p.csv", "a,b,c,d,e,f\n1,2,3,4,5,6\n", Shape(), ', or "e", …$'),
        ("p.csv", TABLE, Shape(column="nope"), "no column 'nope' .* there are id, question"),
        ("p.csv", "a,b\n1\n", Shape(column="a"), "line 2: it has 1 cells where the head has 2"),
        ("p.csv", "a,a\n1,2\n", Shape(column="a"), "line 1: there are two columns 'a'"),
        ("p.csv", "\nsep=;\na;a\n", Shape(column="a"), "line 3: there are two columns 'a'"),
        ("p.csv", 'a,b\n"x,1\n', Shape(column="a"), "not CSV"),
        ("p.csv", "a,b\n ,1\n", Shape(column="a"), "line 2: its prompt is empty"),
        ("p.json", "5", Shape(), "must be an array"),
        (
            "p.json",
            '[{"prompt": "a"},\n{"prompt": }]\n',
            Shape(),
            "JSON: line 2, column 12: a value",
        ),
        ("p.json", '\n{"prompt": "a"}\n{"prompt": "b"}\n', Shape(), "end its name in .jsonl"),
        ("p.json", '[{"prompt": "a"}]\n]\n', Shape(), "line 2, column 1: there is more after its"),
        ("p.json", "[5]", Shape(), "item 1: must be an object"),
        ("p.txt", "caf\xe9\n".encode("latin-1"), Shape(), "line 1: it is not UTF-8"),
        ("p.md", "x", Shape(), "a .md file cannot be read: name a .txt"),
        ("p", "x", Shape(), "ends in nothing"),
        ("p.jsonl", '{"prompt": "cut \\ud83d"}\n', Shape(), "line 1: not JSON: it has half"),
        ("p.jsonl", '{"custom_id": "a", "prompt": "x"}\n' * 2, Shape(), "'a' is that of line 1"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_cure(file, name, content, shape, said):
    with pytest.raises(InputError, match=said):
        read(file(name, content), shape)


def zipped():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "Why is it blue?" * 50)
    return content.getvalue()


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Grün\nBlau\n".encode("utf-16"), "it is UTF-16, not .* iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff" + "Grün\n".encode("utf-16-be"), "iconv -f UTF-16 -t UTF-8"),
        ("one\n".encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
        ("one\n".encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8"),
        ("Grün\n".encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
        ("Grün\n".encode("latin-1"), "it is not UTF-8; .* iconv -f LATIN1 -t UTF-8"),
        (gzip.compress(b"one\n", mtime=0), "unpack it first: gunzip"),
        (bz2.compress(b"one\n"), "unpack it first: bunzip2"),
        (lzma.compress(b"one\n"), "unpack it first: unxz"),
        (zipped(), "a zip archive, as .xlsx .* save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel .* save it as CSV"),
        (b"\x7fELF\2\1\1\0\xff\xfe\xfd", "it is no text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_in_utf_8_is_told_for_what_it_is(file, name, content, said):
    with pytest.raises(InputError, match=f"line [1-9]: .*{said}") as error:
        read(file(name, content))
    assert ("LATIN1" in str(error.value)) is ("LATIN1" in said)


def test_what_begins_as_text_is_told_by_its_beginning(file):
    with pytest.raises(InputError, match="line 2: it is a PDF"):
        read(file("p.txt", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"))


def test_a_prompt_may_begin_as_another_kind_of_file_does(file):
    for text in ("%PDF-1.7 is what?", "PK was a boxer", "BZh", "a NUL: \0."):
        assert [prompt.request["prompt"] for prompt in read(file("p.txt", text))] == [text]


EMBEDDING = {"url": "/v1/embeddings", "method": "POST", "body": {"model": "m", "input": ["x", "y"]}}
EMBEDDINGS = "".join(json.dumps({"custom_id": label, **EMBEDDING}) + "\n" for label in "ab")


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "-"])
def test_lines_that_embed_become_a_batch_as_they_are(file, name, tmp_path, monkeypatch):
    lines = [json.loads(line) for line in EMBEDDINGS.splitlines()]
    content = json.dumps(lines) if name == "p.json" else EMBEDDINGS
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    source = name if name == "-" else file(name, content)
    [made] = input_files(source, tmp_path, Shape())
    assert made.endpoint == "/v1/embeddings"
    assert [json.loads(line) for line in made.path.read_text().splitlines()] == lines


@pytest.mark.parametrize("options", [{"system": "Be brief."}, {"defaults": {"model": "m"}}])
def test_lines_that_embed_take_no_options(file, tmp_path, options):
    with pytest.raises(InputError, match="lines of /v1/embeddings go as they are, without options"):
        input_files(file("p.jsonl", EMBEDDINGS), tmp_path, Shape(**options))


def test_a_line_that_embeds_needs_an_input_and_is_no_job(file, tmp_path):
    line = json.dumps({**EMBEDDING, "body": {"model": "m", "messages": []}})
    with pytest.raises(InputError, match="item 1: its body needs an input"):
        input_files(file("p.json", line), tmp_path, Shape())
    with pytest.raises(InputError, match="line 1: lines of /v1/embeddings are for a batch"):
        read(file("p.jsonl", EMBEDDINGS))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": null}\n', "line 3: its prompt is empty"),
        ("p.jsonl", '{"prompt": " "}\n', "line 1: its prompt is empty"),
        ("p.jsonl", '{"messages": []}\n', "line 1: its messages are empty"),
        ("p.jsonl", '{"messages": null}\n', "line 1: its messages are empty"),
        ("p.jsonl", '{"prompt": 7}\n', "line 1: its prompt must be a text"),
        ("p.jsonl", '{"prompt": ["a"]}\n', "line 1: its prompt must be a text"),
        ("p.csv", "prompt,label\nhi,a\n,b\n", "line 3: its prompt is empty"),
        ("p.json", json.dumps([{**CHAT_LINE, "body": {"prompt": ""}}]), "1: its prompt is empty"),
    ],
)
def test_what_asks_nothing_is_told_before_anything_is_sent(file, tmp_path, name, content, said):
    source = file(name, content)
    with pytest.raises(InputError, match=said):
        input_files(source, tmp_path, Shape())
    with pytest.raises(InputError, match=said):
        read(source)


LEGACY = {
    "method": "POST",
    "url": "/v1/completions",
    "body": {"prompt": ["Once upon"], "max_tokens": 5},
}


def test_lines_of_another_endpoint_are_not_turned_into_chats(file, tmp_path):
    chat = {**CHAT_LINE, "body": {"messages": [{"role": "user", "content": "x"}]}}
    for first, second in ((chat, LEGACY), (LEGACY, chat), ({"prompt": "x"}, LEGACY)):
        source = file("p.json", json.dumps([first, second]))
        with pytest.raises(InputError, match=r"item 2: its url is \S+, that of item 1 is /v1/"):
            input_files(source, tmp_path, Shape())
    with pytest.raises(InputError, match="item 1: lines of /v1/completions are for a batch"):
        read(file("p.json", json.dumps([LEGACY])))
    source = file("p.json", json.dumps([{**LEGACY, "url": "/v1/responses"}]))
    with pytest.raises(InputError, match=r"p\.json, item 1: url must be one of"):
        input_files(source, tmp_path, Shape())
    [made] = input_files(file("p.json", json.dumps([LEGACY, LEGACY])), tmp_path, Shape())
    lines = [json.loads(line) for line in made.path.read_text().splitlines()]
    assert [line["body"] for line in lines] == [LEGACY["body"]] * 2


@pytest.mark.parametrize(
    "shape", [Shape(template="{custom_id}: {text}"), Shape(column="custom_id")]
)
def test_the_custom_id_is_a_column_as_others(file, shape):
    [prompt] = read(file("p.csv", "custom_id,text\nA1,hi\n"), shape)
    assert prompt.label == "A1"
    assert prompt.request["prompt"] in {"A1: hi", "A1"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere.csv", "notes.md", "./x", "/etc", "-"], True),
        (["Why is it blue?", "Hello", "Use node.js here", "3.14", ""], False),
    ],
)
def test_no_name_of_a_file_is_a_prompt(words, named):
    assert [is_file(word) for word in words] == [named] * len(words)


def test_a_folder_is_none(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        list(rows_of(str(tmp_path)))
    with pytest.raises(InputError, match="is a folder"):
        input_files(str(tmp_path), tmp_path, Shape())


def test_a_pipe_with_a_name_is_read_once(tmp_path):
    pipe = tmp_path / "p.jsonl"
    os.mkfifo(pipe)
    line = {**CHAT_LINE, "body": {"messages": [{"role": "user", "content": "x"}]}}
    writer = threading.Thread(target=pipe.write_text, args=[json.dumps(line)], daemon=True)
    writer.start()
    made: list[InputFile] = []
    reader = threading.Thread(
        target=lambda: made.extend(input_files(str(pipe), tmp_path, Shape())), daemon=True
    )
    reader.start()
    reader.join(10)
    assert [json.loads(file.path.read_text()) for file in made] == [line]


def test_an_empty_prompt_is_told_as_one():
    with pytest.raises(InputError, match="the prompt is empty"):
        read("")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"column": "a", "template": "{a}"}, "give one of them"),
        ({"template": "nothing"}, "names no column"),
        ({"template": "{a"}, "write a column as"),
        ({"template": "{a!r}"}, "write a column as"),
    ],
)
def test_a_shape_that_makes_no_sense_is_told(options, said):
    with pytest.raises(InputError, match=said):
        Shape(**options)


def test_a_number_that_somebody_took_is_another_ones(file):
    source = file("p.jsonl", '{"custom_id": "2", "prompt": "a"}\n{"prompt": "b"}\n')
    assert [prompt.label for prompt in read(source)] == ["2", "2-2"]


def test_what_a_row_says_goes_before_the_options(file):
    source = file("p.jsonl", '{"prompt": "a", "max_completion_tokens": 5}\n{"prompt": "b"}\n')
    shape = Shape(system="Be brief.", defaults={"max_tokens": 9, "model": "m"})
    first, second = (prompt.request for prompt in read(source, shape))
    assert "max_tokens" not in first
    assert (second["max_tokens"], second["model"]) == (9, "m")
    assert [message["role"] for message in second["messages"]] == ["system", "user"]


def test_more_lines_than_a_batch_takes_are_several_files(file, tmp_path, monkeypatch):
    monkeypatch.setattr(input_file, "MOST_LINES", 2)
    body = {"messages": [{"role": "user", "content": "x"}]}
    lines = [json.dumps({**CHAT_LINE, "custom_id": f"c{n}", "body": body}) for n in range(5)]
    parts = input_files(file("p.jsonl", "\n".join(lines)), tmp_path, Shape())
    written = [part.path.read_text().splitlines() for part in parts]
    assert [len(each) for each in written] == [2, 2, 1]
    assert [json.loads(line)["custom_id"] for each in written for line in each] == [
        f"c{n}" for n in range(5)
    ]
    assert parts[1].places[0].endswith("p.jsonl, line 3")


def test_results_are_whole_or_not_there(tmp_path):
    output = tmp_path / "r.jsonl"
    output.write_text("precious\n")

    def break_off():
        with writing(output, "again") as target:
            target.write(b"half")
            raise InputError

    with pytest.raises(InputError):
        break_off()
    assert output.read_text() == "precious\n"
    assert list(tmp_path.iterdir()) == [output]
    assert free_name(output).name == "r-2.jsonl"


def test_a_full_disk_is_told_with_the_way_to_the_results():
    with (
        pytest.raises(OutputError, match="No space left on device; get them so"),
        writing(Path("/dev/full"), "get them so") as target,
    ):
        target.write(b"x" * 100_000)
