"""A create that is sent again, with an Idempotency-Key or by the SDK's own silent retry."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import uvicorn
from harness.batches import CHAT, jsonl, line, upload
from harness.processes import Fleet
from harness.records import ORDER
from harness.stores import store_on
from harness.upstream import Upstream
from harness.waiting import free_port, wait_until
from starlette.applications import Starlette
from starlette.middleware import Middleware

from api.errors import HANDLERS, ApiError
from api.files import _begin as begin_upload
from fallback_chain import Body
from tasks.errors import KeyReused
from tasks.records.files import NewFile
from tasks.records.idempotency import IdempotencyKey
from tasks.records.jobs import Options, Queue, Submission, new_job_id
from tasks.store import keyspace

CONTENT = jsonl([line("a", "x")])
AGAIN = {"x-stainless-retry-count": "1"}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def stack(tmp_path_factory, valkey_session):
    """One API for this whole file, and no worker: what is created stays as it is."""
    gpu = Upstream("gpu-model")
    with valkey_session.client() as client:  # breakers, too, that a file before has opened
        client.flushall()
    environ = {
        "FALLTHROUGH_REDIS_URL": valkey_session.url,
        "FALLTHROUGH_GPU_URL": gpu.url,
        "FALLTHROUGH_FILES_URL": str(tmp_path_factory.mktemp("files")),
    }
    fleet = Fleet(tmp_path_factory.mktemp("stack"), environ)
    yield fleet.api().start().url
    fleet.stop()
    gpu.close()


@pytest.fixture
def http(stack):
    with httpx.Client(base_url=f"{stack}/v1", timeout=60) as client:
        yield client


@pytest.fixture
def sdk(stack):
    with openai.OpenAI(base_url=f"{stack}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def key():
    return {"Idempotency-Key": f"key of {new_job_id()}"}


def send_file(http, content=CONTENT, headers=None, name="in.jsonl", **fields):
    data = {"purpose": "batch", **fields}
    return http.post("/files", files={"file": (name, content)}, data=data, headers=headers)


def batch_body(file_id, **fields):
    return {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **fields}


def test_uploads_with_one_key_at_once_make_one_file(http, key):
    content = b"x" * 5_000_000
    before = len(http.get("/files").json()["data"])
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: send_file(http, content, key), range(10)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert len(http.get("/files").json()["data"]) == before + 1


def test_a_key_with_another_content_is_refused_and_leaves_no_file(http, key):
    first = send_file(http, headers=key).json()
    before = http.get("/files").json()["data"]
    for reply in (send_file(http, b"other", key), send_file(http, CONTENT, key, "b.jsonl")):
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert http.get("/files").json()["data"] == before
    assert send_file(http, headers=key).json() == first


def test_a_key_whose_file_was_deleted_makes_one_new_file(http, key):
    first = send_file(http, headers=key).json()["id"]
    http.delete(f"/files/{first}").raise_for_status()
    again = [send_file(http, headers=key).json()["id"] for _ in range(3)]
    assert len(set(again)) == 1
    assert again[0] != first


def test_batches_with_one_key_at_once_are_one_batch(http, sdk, key):
    body = batch_body(upload(sdk, CONTENT))
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: http.post("/batches", json=body, headers=key), range(10)))
    assert len({reply.json()["id"] for reply in replies}) == 1


def test_jobs_with_one_key_at_once_are_one_job(http, key):
    body = {"prompt": "x"}
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: http.post("/jobs", json=body, headers=key), range(10)))
    assert len({reply.json()["id"] for reply in replies}) == 1


def test_a_key_with_another_body_is_refused_wherever_it_is_sent(http, sdk, key):
    first, other = upload(sdk, CONTENT), upload(sdk, CONTENT)
    creates = {
        "/batches": (batch_body(first), batch_body(other)),
        "/jobs": ({"prompt": "x"}, {"prompt": "y"}),
    }
    for path, (one, two) in creates.items():
        made = http.post(path, json=one, headers=key)
        assert made.is_success, made.text
        refused = http.post(path, json=two, headers=key)
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "idempotency_key_reused"
        assert "Idempotency-Key" in refused.json()["error"]["message"]
        assert http.post(path, json=one, headers=key).json()["id"] == made.json()["id"]
    hour = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    kept = send_file(http, headers=key)
    assert send_file(http, headers=key, **hour).status_code == 422
    assert send_file(http, headers=key).json()["id"] == kept.json()["id"]
    many = {"requests": [{"prompt": "a"}, {"prompt": "b"}]}
    assert http.post("/jobs", json=many, headers=key).status_code == 422
    chat = {"messages": HELLO, "model": "x"}
    assert http.post("/jobs", json=chat, headers=key).status_code == 422


def test_a_key_with_another_handling_in_headers_is_refused(http, key):
    """Else the tiers that they rule out would answer."""

    def ask(tiers):
        headers = {**key, "x-fallthrough-tiers": tiers}
        return http.post("/jobs", json={"prompt": "x"}, headers=headers)

    first, same, other = map(ask, ("gpu", "gpu", "cache"))
    assert first.json()["id"] == same.json()["id"]
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("count", ["²", "-1", "9" * 5000, "x"])
def test_a_retry_count_that_is_no_number_counts_as_none(http, sdk, count):
    body = batch_body(upload(sdk, CONTENT))
    headers = {"x-stainless-retry-count": count.encode("latin-1")}
    made = [http.post("/batches", json=body, headers=headers) for _ in range(2)]
    assert {reply.status_code for reply in made} == {200}
    assert made[0].json()["id"] != made[1].json()["id"]


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_of_no_or_too_many_characters_is_refused(http, key):
    reply = http.post("/jobs", json={"prompt": "x"}, headers={"Idempotency-Key": key})
    assert reply.status_code == 400
    assert "Idempotency-Key" in reply.json()["error"]["message"]


class Dropping:
    """Stands before the API and drops the first answer to every create, once it is made."""

    def __init__(self, url: str) -> None:
        self.url, self.seen = url, 0
        self.app = Starlette()
        self.port = free_port()
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        content, more = b"", True
        while more:
            message = await receive()
            content, more = content + message.get("body", b""), message.get("more_body", False)
        headers = [(k, v) for k, v in scope["headers"] if k != b"host"]
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            path = scope["path"]
            reply = await client.request(scope["method"], path, content=content, headers=headers)
        count = dict(scope["headers"])[b"x-stainless-retry-count"].decode()
        self.asked.append((path, count))
        if count == "0":
            raise ConnectionError("the answer is lost")
        await send({"type": "http.response.start", "status": reply.status_code, "headers": []})
        await send({"type": "http.response.body", "body": reply.content})


@pytest.fixture
def serve():
    """Serve an ASGI application on loopback."""
    servers = []

    def begin(app, port):
        config = uvicorn.Config(app, port=port, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        wait_until(lambda: server.started)
        return f"http://127.0.0.1:{port}"

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def test_the_sdks_own_retry_after_a_lost_answer_finds_what_the_first_one_made(stack, sdk, serve):
    dropping = Dropping(stack)
    url = serve(dropping, dropping.port)
    before = len(list(sdk.files.list())), len(list(sdk.batches.list()))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as retrying:
        file_id = upload(retrying, CONTENT)
        batch = retrying.batches.create(**batch_body(file_id))
    creates = ("/v1/files", "/v1/batches")
    assert dropping.asked == [(path, count) for path in creates for count in ("0", "1")]
    assert (len(list(sdk.files.list())), len(list(sdk.batches.list()))) == (
        before[0] + 1,
        before[1] + 1,
    )
    assert sdk.batches.retrieve(batch.id).input_file_id == file_id


def test_a_crash_does_not_cut_off_the_next_request(serve):
    async def broken(scope, receive, send):
        raise RuntimeError("a defect")

    app = Starlette(exception_handlers=HANDLERS, middleware=[Middleware(lambda app: broken)])
    with httpx.Client(base_url=serve(app, free_port())) as http:
        for _ in range(5):
            assert http.get("/v1/files").status_code == 500


@pytest.fixture
async def store(valkey_session):
    store = store_on(valkey_session.url)
    yield store
    await store.close()


def idempotency_key(**fields):
    return IdempotencyKey(**{"name": new_job_id(), "digest": "d" * 32, "lookup": True, **fields})


def job():
    return Submission(
        id=new_job_id(),
        owner="ann",
        queue=Queue.INTERACTIVE,
        body=Body.of({"messages": HELLO}),
        options=Options(),
        deadline_seconds=60.0,
        metadata={},
    )


async def test_a_job_that_a_repeated_create_was_told_of_is_not_taken_back(store):
    first, keys, jobs = job(), [idempotency_key()], store.jobs
    await jobs.create([first], ORDER, keys)
    assert (await jobs.create([job()], ORDER, keys))[1] == [first.id]
    assert await jobs.discard("ann", [first.id], keys) == 1
    assert await jobs.get(first.id, "ann")
    assert (await jobs.create([job()], ORDER, keys))[1] == [first.id]


async def test_a_key_whose_job_is_gone_makes_a_new_one(store):
    first, second, keys, jobs = job(), job(), [idempotency_key()], store.jobs
    await jobs.create([first], ORDER, keys)
    await store.connection.command("DEL", keyspace.job(first.id))
    assert (await jobs.create([second], ORDER, keys))[1] is None
    assert (await jobs.create([job()], ORDER, keys))[1] == [second.id]
    with pytest.raises(KeyReused):
        await jobs.create([job()], ORDER, [keys[0]._replace(digest="e" * 32)])


class Slow:
    """A file whose reading waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def seek(self, _: int) -> None:
        self.go.wait(20)

    def read(self, _: int) -> bytes:
        return b""

    def tell(self) -> int:
        return 0


@pytest.mark.parametrize("lookup", [True, False])
async def test_an_upload_under_way_keeps_its_key_and_one_that_failed_frees_it(
    store, monkeypatch, lookup
):
    monkeypatch.setattr("api.files.UNDER_WAY_SECONDS", 0.3)
    files, keys = store.files, [idempotency_key()]
    first, new = await files.begin("ann", [keys[0]._replace(lookup=lookup)])
    assert new
    content = Slow()
    copying = asyncio.create_task(
        files.create(
            NewFile(id=first, owner="ann", filename="a.jsonl", purpose="batch", seconds=3600),
            content,
            keys,
        )
    )
    assert await files.begin("ann", keys) == (first, False)
    with pytest.raises(ApiError) as error:
        await begin_upload(files, "ann", keys, 0)
    assert (error.value.status, error.value.headers) == (409, {"Retry-After": "5"})
    content.read = None  # breaks the copy
    content.go.set()
    with pytest.raises(TypeError):
        await copying
    second, new = await files.begin("ann", keys)
    assert new
    assert second != first
