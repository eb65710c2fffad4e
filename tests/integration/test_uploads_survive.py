"""An API that is killed in the middle of an upload, and a client that only knows to retry."""

from __future__ import annotations

import io
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import openai
import pytest
from harness.batches import CHAT, check_every_line_once, ended, jsonl, line
from harness.proxy import Proxy
from harness.s3 import S3Server
from harness.waiting import wait_until

if TYPE_CHECKING:
    from harness.processes import Fleet, Process

LINES = [line(f"c{n}", f"prompt {n} {'x' * 10_000}") for n in range(400)]  # 4 MB
CONTENT = jsonl(LINES)
TERMS = {"endpoint": CHAT, "completion_window": "24h"}


@dataclass
class Pair:
    """Two APIs on one storage, and a balancer that leads to the first."""

    fleet: Fleet
    s3: S3Server
    first: Process
    second: Process
    balancer: Proxy

    def kill_the_first(self):
        """The balancer leads to the second from now on."""
        self.first.signal(signal.SIGKILL)
        self.first.wait()
        self.balancer.lead_to(self.second.url)
        self.balancer.reset()


@pytest.fixture
def pair(fleet):
    s3 = S3Server()
    fleet.settings.update(s3.environ, FALLTHROUGH_FILES_URL="s3://bucket/files")
    first, second = fleet.start(fleet.api(), fleet.api())
    balancer = Proxy(first.url)
    yield Pair(fleet, s3, first, second, balancer)
    balancer.close()
    s3.close()


@pytest.fixture
def sdk(pair):
    """The SDK as anybody makes one: two retries, half a second after the first failure."""
    with openai.OpenAI(base_url=f"{pair.balancer.url}/v1", api_key="any") as client:
        yield client


class Told(io.BytesIO):
    """A file that tells once when it is read from its middle on."""

    def __init__(self, content, tell):
        super().__init__(content)
        self._tell, self._middle = tell, len(content) // 2

    def read(self, size=-1):
        if self._tell and self.tell() > self._middle:
            self._tell, tell = None, self._tell
            tell()
        return super().read(size)


def kill_while_the_bytes_come(pair):
    return Told(CONTENT, pair.kill_the_first)


def kill_while_it_is_copied(pair):
    """Its key is claimed, its record is not made."""

    def kill(what):
        if what.startswith("PUT key"):
            pair.s3.before = lambda _: None
            pair.kill_the_first()

    pair.s3.before = kill
    return io.BytesIO(CONTENT)


def kill_once_it_is_recorded(pair):
    """Only the answer is lost."""

    def kill():
        with openai.OpenAI(base_url=f"{pair.second.url}/v1", api_key="any") as other:
            wait_until(lambda: other.files.list().data)
        pair.kill_the_first()
        pair.balancer.thaw()

    def freeze(what):
        if what.startswith("PUT key"):
            pair.s3.before = lambda _: None
            pair.balancer.freeze()
            threading.Thread(target=kill).start()

    pair.s3.before = freeze
    return io.BytesIO(CONTENT)


MOMENTS = [kill_while_the_bytes_come, kill_while_it_is_copied, kill_once_it_is_recorded]


@pytest.mark.parametrize(
    "headers", [{}, {"Idempotency-Key": "mine"}], ids=["retried", "with a key"]
)
@pytest.mark.parametrize("kill", MOMENTS)
def test_an_upload_whose_api_is_killed_succeeds_by_the_sdks_own_retries(pair, sdk, kill, headers):
    began = time.monotonic()
    content = kill(pair)
    made = sdk.files.create(file=("in.jsonl", content), purpose="batch", extra_headers=headers)
    assert time.monotonic() - began < 20
    assert [each.id for each in sdk.files.list()] == [made.id], "one upload is one file"
    assert sdk.files.content(made.id).content == CONTENT
    again = sdk.files.create(
        file=("in.jsonl", CONTENT),
        purpose="batch",
        extra_headers={**headers, "x-stainless-retry-count": "1"},
    )
    assert again.id == made.id
    pair.fleet.worker().start()
    batch = sdk.batches.create(input_file_id=made.id, **TERMS)
    check_every_line_once(sdk, ended(sdk, batch.id), [each["custom_id"] for each in LINES])


@pytest.mark.parametrize(
    "headers", [{}, {"Idempotency-Key": "mine"}], ids=["retried", "with a key"]
)
@pytest.mark.parametrize("after", [0.0, 0.004, 0.01])
def test_a_batch_whose_api_is_killed_as_it_is_made_is_one_batch(pair, sdk, after, headers):
    file_id = sdk.files.create(file=("in.jsonl", jsonl(LINES[:10])), purpose="batch").id
    threading.Timer(after, pair.kill_the_first).start()
    batch = sdk.batches.create(input_file_id=file_id, extra_headers=headers, **TERMS)
    assert [each.id for each in sdk.batches.list()] == [batch.id]
    pair.fleet.worker().start()
    check_every_line_once(sdk, ended(sdk, batch.id), [each["custom_id"] for each in LINES[:10]])


def test_an_upload_is_taken_up_by_the_same_api_once_it_is_back(pair, sdk):
    """The only API: who comes while it starts is kept waiting by the balancer."""
    api, balancer = pair.first, pair.balancer

    def restart():
        balancer.freeze()
        api.signal(signal.SIGKILL)
        api.wait()
        balancer.reset()
        api.start()
        balancer.thaw()

    content = Told(CONTENT, lambda: threading.Thread(target=restart).start())
    made = sdk.files.create(file=("in.jsonl", content), purpose="batch")
    assert [each.id for each in sdk.files.list()] == [made.id]
    assert sdk.files.content(made.id).content == CONTENT
