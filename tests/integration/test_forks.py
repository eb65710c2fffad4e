"""A process that the tests fork says what a new interpreter says, and ends as it does."""

from __future__ import annotations

import pytest
from harness import processes
from harness.commands import environ
from harness.nursery import Child

CASES = {
    "what it is set to": (("cli.main", "config"), {"FALLTHROUGH_GPU_MODEL": "m"}, ""),
    "its usage": (("cli.main", "submit", "--nothing"), {}, ""),
    "nobody to ask, for lines of standard input": (
        ("cli.main", "submit", "-", "--url", "http://127.0.0.1:1"),
        {},
        "one\ntwo\n",
    ),
    "a server that does not start": (("api",), {"FALLTHROUGH_PORT": "x"}, ""),
    "Celery": (("celery", "-A", "tasks", "report"), {}, ""),
    "what begins before all else": (("cli.main", "--version"), {"PYTHONPATH": "{folder}"}, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fork_says_what_an_interpreter_says(case, tmp_path, monkeypatch):
    words, settings, stdin = CASES[case]
    (tmp_path / "sitecustomize.py").write_text("print('it has begun', flush=True)")
    variables = environ(**{k: v.format(folder=tmp_path) for k, v in settings.items()})
    forked = processes.python(*words, environ=variables, stdin=stdin)
    monkeypatch.setattr(processes, "nurseries", None)
    anew = processes.python(*words, environ=variables, stdin=stdin)
    assert vars(anew) == vars(forked)
    assert ("it has begun" in forked.stdout) == ("PYTHONPATH" in settings)


def test_what_an_interpreter_would_read_at_its_start_is_started_anew(tmp_path):
    variables = environ()
    with (tmp_path / "said").open("wb+") as file:
        for more, forked in (({}, True), ({"PYTHONUTF8": "1"}, False), ({"TZ": "Asia/X"}, False)):
            words = ["cli.main", "--version"]
            process = processes.begin(words, {**variables, **more}, tmp_path, file, file, file)
            assert process.wait(30) == 0
            assert isinstance(process, Child) == forked
