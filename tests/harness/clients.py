"""Clients of other projects, each in a process of the environment that it is installed in."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selenium.webdriver import Chrome

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "services" / "clients"
PYTHON = ROOT / ".venv" / "clients" / "bin" / "python"
SECONDS = 60  # of a test's 120


class Tried(NamedTuple):
    """A client. package: its name at its registry; lock: what says its version; file: its ways."""

    package: str
    lock: str
    file: str

    @property
    def version(self) -> str:
        locked = (ROOT / self.lock).read_text().splitlines()
        [line] = [line for line in locked if line.startswith(f"{self.package}==")]
        return line.split()[0].partition("==")[2]

    @property
    def python(self) -> Path:
        return PYTHON if self.lock == OTHERS else Path(sys.executable)


OURS, OTHERS = "requirements.lock", "requirements-clients.lock"
TRIED = {
    "openai 3": Tried("openai", OURS, "openai"),
    "openai 2": Tried("openai", OTHERS, "openai"),
    "LangChain": Tried("langchain-openai", OTHERS, "langchain"),
    "LlamaIndex": Tried("llama-index-llms-openai-like", OTHERS, "llama_index"),
    "llm": Tried("llm", OTHERS, "llm"),
    "pydantic-ai": Tried("pydantic-ai-slim", OTHERS, "pydantic_ai"),
}

BROWSER = """
const [url, prompt, stream, done] = arguments
const began = performance.now()
const pieces = []
const came = (text) => text && pieces.push([(performance.now() - began) / 1000, text])
const ask = async () => {
  const messages = [{role: 'user', content: prompt}]
  const reply = await fetch(`${url}/chat/completions`, {
    method: 'POST',
    headers: {'content-type': 'application/json', authorization: 'Bearer any'},
    body: JSON.stringify({model: 'gpu-model', messages, stream}),
  })
  if (!reply.ok) throw new Error(`${reply.status} ${await reply.text()}`)
  if (!stream) return came((await reply.json()).choices[0].message.content)
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const {value, done: ended} = await reader.read()
    if (ended) throw new Error(`an end without [DONE] behind ${JSON.stringify(pieces)}`)
    const events = (rest + value).split('\\n\\n')
    rest = events.pop()
    for (const event of events.filter((each) => each.startsWith('data: '))) {
      if (event === 'data: [DONE]') return
      const chunk = JSON.parse(event.slice(6))
      if (chunk.error) throw new Error(chunk.error.message)
      came(chunk.choices[0]?.delta.content)
    }
  }
}
ask().then(() => done({pieces}), (error) => done({error: String(error)}))
"""


class Answer(NamedTuple):
    """What came: (seconds since the asking, text) of each piece; or how it failed."""

    pieces: Sequence[tuple[float, str]] = ()
    error: str = ""

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces).removesuffix("\n")  # of a command


def ways_of(name: str) -> list[str]:
    """Return the ways to ask that a client's file has: its functions of a URL and a prompt."""
    tree = ast.parse((FOLDER / f"{name}_ways.py").read_text())
    functions = [e for e in tree.body if isinstance(e, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [f.name for f in functions if [a.arg for a in f.args.args] == ["url", "prompt"]]


@dataclass
class Client:
    """A library in its process. python: of its environment; home: a folder that it may write to."""

    name: str
    python: Path
    home: Path
    process: subprocess.Popen[str] | None = field(default=None, init=False)

    def ask(self, way: str, url: str, prompt: str) -> Answer:
        """Ask in one of its ways; pytest's timer ends what hangs, and the process with it."""
        self.process = self.process or self._started()
        line = json.dumps({"way": way, "url": url, "prompt": prompt}) + "\n"
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
            return Answer(**json.loads(self.process.stdout.readline()))
        except BaseException:
            self.close()
            raise

    def _started(self) -> subprocess.Popen[str]:
        if not self.python.exists():
            pytest.fail(f"{self.python} is missing: `./run test services` makes it")
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        pipe = subprocess.PIPE
        with (self.home / "stderr.log").open("a") as log:
            return subprocess.Popen(
                [str(self.python), str(FOLDER), self.name],
                env={**environ, "LLM_USER_PATH": str(self.home)},
                stdin=pipe,
                stdout=pipe,
                stderr=log,
                text=True,
            )

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@dataclass
class Browser:
    """A page's fetch. page: where the script runs; empty: on the API's own page."""

    driver: Chrome
    page: str = ""

    def ask(self, way: str, url: str, prompt: str) -> Answer:
        self.driver.set_script_timeout(SECONDS)
        self.driver.get(self.page or url.removesuffix("/v1"))
        arguments = (url, prompt, way == "streamed")
        return Answer(**self.driver.execute_async_script(BROWSER, *arguments))

    def close(self) -> None:
        """Leave the driver to whoever started it."""
