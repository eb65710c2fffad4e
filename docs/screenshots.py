"""Takes the pictures of docs/web-page.md: `./run docs --screenshots [FOLDER [KIND …]]`.

It takes five minutes, and writes webp, or the kinds of files that are named.
A stack of `fallthrough up` with two real models works while the pictures are taken. The server of
the GPU tier is stopped on the way and started again, so that there is an outage to be seen.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
from harness import browser
from harness.browser import Page
from harness.commands import Up
from harness.waiting import free_port, wait_until
from selenium.webdriver.common.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = Path(__file__).parent / "img"
MINUTE = 60.0
TALLEST = 1000  # pixels of a picture
OVERVIEW = 1600
STARTING = 120.0  # seconds until a model is loaded, on a busy machine
LONG = "word " * 3000  # more than the model's context takes
QUESTIONS = (
    "Why is the sky blue?",
    "Name a river.",
    "What is a queue?",
    "Is ice lighter than water?",
)


# Counts the requests whose replies are not read to their end yet.
COUNT_REQUESTS = """
const fetchNow = window.fetch
window.underWay = 0
window.fetch = async (...request) => {
  window.underWay += 1
  let whole = Promise.resolve()
  try {
    const reply = await fetchNow(...request)
    whole = reply.clone().arrayBuffer()
    return reply
  } finally { whole.catch(() => {}).then(() => { window.underWay -= 1 }) }
}
"""
# A page shows what the API says, and waits for nothing more: also when that was drawn.
IS_SHOWN = """
const done = arguments[0]
const isShown = () => window.underWay === 0 && !document.body.innerText.includes('counting …') && (
  document.querySelector('#at')
  ? document.querySelector('#at').textContent !== ''
  : !!document.querySelector('#ui')?.innerText.includes('/v1/'))
if (!isShown()) done(false)
else requestAnimationFrame(() => requestAnimationFrame(() => done(isShown())))
"""


class Look(NamedTuple):
    """How a page is looked at."""

    name: str
    width: int
    height: int
    scheme: str
    mobile: bool = False


LOOKS = (
    Look("", 1280, 800, "light"),
    Look("-dark", 1280, 800, "dark"),
    Look("-phone", 390, 844, "light", mobile=True),
)


class Camera:
    """A browser that takes pictures of pages of one API."""

    def __init__(self, page: Page, api_url: str, folder: Path, kinds: Sequence[str]) -> None:
        self.page = page
        page.tell("Page.addScriptToEvaluateOnNewDocument", source=COUNT_REQUESTS)
        self._api_url, self._folder, self._kinds = api_url, folder, kinds

    def visit(self, path: str) -> None:
        """Open a page, and wait until it shows what the API says."""
        driver = self.page.open(f"{self._api_url}/{path}").driver
        driver.refresh()
        wait_until(lambda: driver.execute_async_script(IS_SHOWN), STARTING, f"{path} is shown")

    def wait(self, script: str) -> None:
        """Wait until a script says that something is there."""
        wait_until(lambda: self.page.run(script), STARTING, script)

    def shoot(
        self, name: str, path: str, tallest: int = TALLEST, looks: Sequence[Look] = LOOKS
    ) -> None:
        """Take the pictures of a page, as each look has it."""
        for look in looks:
            self.frame(look, look.height)
            self.visit(path)
            self.take(name, look, tallest)

    def take(self, name: str, look: Look, tallest: int = TALLEST) -> None:
        """Take a picture of what is open."""
        tall = self.page.run("return document.documentElement.scrollHeight")
        self.frame(look, min(tall, tallest))
        for kind in self._kinds:
            quality = {} if kind == "png" else {"quality": 65}
            shot = self.page.tell("Page.captureScreenshot", format=kind, **quality)
            path = self._folder / f"{name}{look.name}.{kind}"
            path.write_bytes(base64.b64decode(shot["data"]))

    def frame(self, look: Look, height: int) -> None:
        """Give the window the size and the colours of a look."""
        size = {"width": look.width, "height": height, "deviceScaleFactor": 1}
        self.page.tell("Emulation.setDeviceMetricsOverride", **size, mobile=look.mobile)
        scheme = {"name": "prefers-color-scheme", "value": look.scheme}
        self.page.tell("Emulation.setEmulatedMedia", features=[scheme])


@contextmanager
def model_server(port: int) -> Iterator[None]:
    """Serve the small model at a port."""
    command = [sys.executable, "-m", "cli.model_server", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:  # noqa: S603 - ours
        try:
            wait_until(lambda: answers(port), STARTING, "the GPU tier's model is loaded")
            yield
        finally:
            server.terminate()


def answers(port: int) -> bool:
    """Whether a model server is ready."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").is_success
    except httpx.TransportError:
        return False


def ask_for(api: httpx.Client, seconds: float) -> list[str]:
    """Ask one question after another for so long; return the jobs' ids."""
    ids, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        prompt = QUESTIONS[len(ids) % len(QUESTIONS)]
        body = {
            "prompt": f"{prompt} ({len(ids) + 1})",
            "max_tokens": 24,
            "metadata": {"team": "docs"},
        }
        ids.append(api.post("/v1/jobs", json=body).json()["id"])
        api.get(f"/v1/jobs/{ids[-1]}", params={"wait": 20})
        time.sleep(1)
    return ids


def start_batch(api: httpx.Client, lines: int) -> str:
    """Start a batch of which one line is too long for the model; return its id."""
    texts = [f"{QUESTIONS[n % len(QUESTIONS)]} ({n})" for n in range(lines - 1)]
    texts.insert(3, LONG)
    content = "\n".join(
        json.dumps(
            {
                "custom_id": f"question-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"messages": [{"role": "user", "content": text}], "max_tokens": 24},
            }
        )
        for number, text in enumerate(texts, 1)
    )
    files = {"file": ("questions.jsonl", content.encode())}
    file = api.post("/v1/files", data={"purpose": "batch"}, files=files).json()
    body = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"label": "questions"},
    }
    return str(api.post("/v1/batches", json=body).json()["id"])


def converse(camera: Camera) -> None:
    """Take pictures of the playground with an answer in it."""
    for look in LOOKS:
        camera.frame(look, look.height)
        camera.visit("#/playground")
        field = camera.page.find("[name=prompt]")
        camera.page.find("[name=max_tokens]").send_keys("60")
        field.send_keys("Why is the sky blue?" + Keys.CONTROL + Keys.ENTER)
        camera.wait("return !!document.querySelector('.talk .end')")
        camera.take("playground", look)


def check_a_file(camera: Camera, folder: Path) -> None:
    """Take pictures of a new batch whose file has a fault."""
    faulty = folder / "faulty.jsonl"
    faulty.write_text(
        '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": '
        '{"messages": [{"role": "user", "content": "Hello"}]}}\n{"custom_id": "b", broken\n'
    )
    for look in LOOKS:
        camera.frame(look, look.height)
        camera.visit("#/batches/new")
        camera.page.find("input[type=file]").send_keys(str(faulty))
        camera.wait("return document.querySelectorAll('main tbody tr').length")
        camera.take("new-batch", look)


def pictures(up: Up, port: int, folder: Path, kinds: Sequence[str], scratch: Path) -> None:
    """Let the stack work, through an outage, and take all pictures."""
    driver = browser.start(scratch / "chromium", "--hide-scrollbars")
    camera = Camera(Page(driver), up.url, folder, kinds)
    try:
        with httpx.Client(base_url=up.url, timeout=60) as api:
            with model_server(port):
                ask_for(api, 1.5 * MINUTE)
            [first, *_] = ask_for(api, 0.5 * MINUTE)
            batch = start_batch(api, 60)
            ask_for(api, 0.75 * MINUTE)
            camera.shoot("overview", "", OVERVIEW)
            with model_server(port):
                ask_for(api, 1.25 * MINUTE)
                done = {"completed", "failed", "expired", "cancelled"}
                look = lambda: api.get(f"/v1/batches/{batch}").json()["status"] in done  # noqa: E731
                wait_until(look, 5 * MINUTE, "the batch has ended")
                converse(camera)
                check_a_file(camera, scratch)
                camera.shoot("job", f"#/jobs/{first}")
                camera.shoot("jobs", "#/jobs?status=succeeded")
                camera.shoot("batch", f"#/batches/{batch}")
                camera.shoot("batches", "#/batches")
                camera.shoot("files", "#/files")
                camera.shoot("breaker", "#/breakers/max_gpu")
                camera.shoot("api", "docs", looks=LOOKS[::2])  # it is light alone
    finally:
        driver.quit()


def main(folder: str = str(FOLDER), *kinds: str) -> None:
    """Start a stack, and take the pictures."""
    port = free_port()
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        up = Up(
            Path(scratch) / "data",
            *("--cpu", "embedded"),
            FALLTHROUGH_GPU_URL=f"http://127.0.0.1:{port}",
            FALLTHROUGH_BREAKER_RECOVERY_SECONDS="20",
            FALLTHROUGH_SLICE_LINES="4",
        )
        try:
            pictures(up, port, Path(folder), kinds or ("webp",), Path(scratch))
        finally:
            up.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
