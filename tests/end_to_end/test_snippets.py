"""Every snippet of README and docs is run, as it is printed, on one stack of `fallthrough up`."""

from __future__ import annotations

import ast
import asyncio
import configparser
import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest
import redis
import yaml
from harness.commands import Up
from harness.snippets import Desk, replaced, snippets
from harness.upstream import Upstream
from harness.waiting import wait_until

import circuit_breaker
from api.files import FORM_BYTES, LARGEST_FILE
from circuit_breaker import configure_default_store, forget_circuit_breakers
from cli.main import main as fallthrough
from fallback_chain import FallbackChain
from tasks.settings import Settings

# The languages of fences that are no command: what looks at each. "" is output, or a sketch.
LOOKED_AT = {"bash", "python", "jsonl", "json", "yaml", "ini", "nginx", "mermaid", "text", ""}
# What a line that is printed cannot do here, by its first words; each is looked at elsewhere.
ELSEWHERE = {
    "sudo": "it changes the machine: the unit is read by its own test",
    "kill": "it ends what a person started",
}


@pytest.fixture(scope="module")
def servers():
    found = Upstream("gpu-model"), Upstream("cpu-model")
    yield found
    for upstream in found:
        upstream.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory, module_valkey, servers):
    """`fallthrough up` with a store that commands can reach, and stubs as model servers."""
    gpu, cpu = servers
    up = Up(
        tmp_path_factory.mktemp("stack") / "fallthrough",
        FALLTHROUGH_REDIS_URL=module_valkey.url,
        FALLTHROUGH_GPU_URL=gpu.url,
        FALLTHROUGH_CPU_URL=cpu.url,
    )
    yield up
    up.stop()


@pytest.fixture(scope="module")
def worker(stack):
    """The health port of a worker: Prometheus finds it, and so do we."""
    [url, *_] = [part["url"] for part in stack.told["parts"] if part["part"].startswith("worker")]
    return httpx.URL(url)


@pytest.fixture
def desk(tmp_path, stack, worker, servers, module_valkey):
    gpu, cpu = (httpx.URL(upstream.url) for upstream in servers)
    api = httpx.URL(stack.url)
    ports = {
        "localhost:8000": f"{api.host}:{api.port}",
        "localhost:8001": f"{worker.host}:{worker.port}",
        "gpu-box:8000": f"{gpu.host}:{gpu.port}",
        "cpu-box:11434": f"{cpu.host}:{cpu.port}",
    }
    settings = {
        "XDG_DATA_HOME": str(Path(stack.told["data_dir"]).parent),  # where doctor finds the stack
        "FALLTHROUGH_API_URL": stack.url,
        "FALLTHROUGH_REDIS_URL": module_valkey.url,
        "FALLTHROUGH_GPU_URL": str(gpu),
        "FALLTHROUGH_GPU_API_KEY": "",
        "FALLTHROUGH_KEYS_FILE": str(tmp_path / "keys.json"),
    }
    return Desk(tmp_path, ports, settings)


@pytest.fixture
def places(stack, tmp_path):
    """What a snippet says for something of the reader's own, and what it is here."""
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="any") as sdk:
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
        body = {"messages": [{"role": "user", "content": "x"}]}
        content = json.dumps({**line, "body": body}).encode()
        file = sdk.files.create(file=("p.jsonl", content), purpose="batch")
        endpoint = "/v1/chat/completions"
        batch = sdk.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h"
        )
        wait_until(lambda: sdk.batches.retrieve(batch.id).status == "completed")
    job = httpx.post(f"{stack.url}/v1/jobs", json={"prompt": "x", "stream": True}).json()["id"]
    return {
        "job_…": job,
        "batch_…": batch.id,
        "file-…": file.id,
        "ft-…": "ft-0123456789abcdef",
        "sk-…": "sk-0123456789abcdef",
        "/etc/fallthrough": str(tmp_path),
        "/etc/ssl/our-authority.pem": str(tmp_path / "our-authority.pem"),
        "~/.local/share": str(tmp_path),
        "BAAI/bge-m3": "gpu-model",  # what the stub embeds with
        "python load_test.py": f"python load_test.py --url {stack.url}",
        # An id is known only once its key was made.
        "revoke 10fd429d": r"revoke $(fallthrough keys list | grep -o '[0-9a-f]\{8\}' | head -1)",
    }


def test_every_fence_is_of_a_kind_that_is_looked_at():
    assert {each.language for each in snippets(*LOOKED_AT)} <= LOOKED_AT
    assert len(snippets("bash")) > 40
    assert len(snippets("python")) > 8


def pasted(text):
    """The lines that are run here."""
    return "\n".join(line for line in text.splitlines() if line.split(" ")[0] not in ELSEWHERE)


def is_answer_of(done):
    """Whether a command said what an error of ours looks like, though it ended well."""
    return re.search(r'"error":\{"message"|Traceback', done.stdout.replace(" ", ""))


@pytest.mark.parametrize("snippet", snippets("bash"), ids=str)
def test_a_command_runs_as_it_is_printed(snippet, desk, places):
    done = desk.paste(pasted(replaced(snippet.text, places)))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert not is_answer_of(done), done.stdout


async def call_service():
    return "served"


def names_of(stack, servers, valkey):
    """What a snippet of Python takes for granted: what a reader has from the one before."""
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none")
    return {
        "client": client,
        "messages": [{"role": "user", "content": "Hello"}],
        "call_service": call_service,
        "sign": None,
        "context_with_client_certificate": True,
        "redis": SimpleNamespace(Redis=lambda **_: redis.Redis(port=valkey.port)),
        "httpx": httpx,
        "FallbackChain": FallbackChain,
        **{name: getattr(circuit_breaker, name) for name in circuit_breaker.__all__},
    }


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
async def test_a_piece_of_python_runs_as_it_is_printed(  # noqa: PLR0913, PLR0917 - the stack's parts
    snippet, stack, servers, module_valkey, desk, monkeypatch
):
    gpu, cpu = servers
    places = {
        "http://localhost:8000": stack.url,
        "http://gpu-box:8000": gpu.url,
        "https://gpu-box": gpu.url,
        "http://localhost:11434": cpu.url,
        "import redis\n": "\n",  # which finds the stack's, as names_of has it
    }
    monkeypatch.chdir(desk.folder)
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        for name, body in (("a", {"messages": [{"role": "user", "content": "x"}]}),)
    ]
    (desk.folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code = compile(
        replaced(snippet.text, places), str(snippet), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    names = names_of(stack, servers, module_valkey)
    forget_circuit_breakers()
    try:
        if code.co_flags & inspect.CO_COROUTINE:
            await eval(code, names)  # noqa: S307 - our own pages
        else:
            await asyncio.to_thread(exec, code, names)
        for name in ("chain", "client"):
            if isinstance(names.get(name), FallbackChain | httpx.AsyncClient):
                await names[name].aclose()
        if isinstance(names["client"], openai.OpenAI):
            names["client"].close()
    finally:
        configure_default_store(None)
        forget_circuit_breakers()


@pytest.mark.parametrize("snippet", snippets("jsonl", "json", "yaml"), ids=str)
def test_what_is_shown_of_files_can_be_read(snippet):
    if snippet.language == "yaml":
        assert yaml.safe_load(snippet.text)
    for line in snippet.text.splitlines() if snippet.language == "jsonl" else []:
        assert isinstance(json.loads(line), dict)
    if snippet.language == "json":
        assert json.loads(snippet.text)


def units():
    """The files of systemd's that are shown; what has no section is an EnvironmentFile."""
    return [each.text for each in snippets("ini")]


def test_the_unit_starts_what_there_is_with_options_that_there_are():
    [text] = [text for text in units() if "[Service]" in text]
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    program, command, *options = unit["Service"]["ExecStart"].split()
    assert program.endswith("/bin/fallthrough")
    fallthrough.commands[command].make_context(command, options)
    assert float(unit["Service"]["TimeoutStopSec"]) > 2 * Settings().drain_seconds
    assert unit["Service"]["User"] == "fallthrough"


def test_a_file_of_settings_for_a_unit_is_taken():
    for text in (text for text in units() if "[Service]" not in text):
        Settings.from_env(dict(line.split("=", 1) for line in text.splitlines()))


def test_the_proxys_limits_are_above_ours():
    [text] = [each.text for each in snippets("nginx")]
    [size] = re.findall(r"client_max_body_size (\d+)m;", text)
    [seconds] = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(size) * 1024 * 1024 > LARGEST_FILE + FORM_BYTES
    assert int(seconds) > Settings().stream_deadline_seconds
    assert text.count("{") == text.count("}")


def test_the_input_files_that_are_shown_are_taken(stack, desk):
    shown = [each for each in snippets("jsonl") if "prompt" in each.text or "body" in each.text]
    assert shown
    for snippet in shown:
        (desk.folder / "shown.jsonl").write_text(snippet.text)
        done = desk.paste("fallthrough batch shown.jsonl --output shown-results.jsonl")
        assert done.returncode == 0, done.stderr
        found = (desk.folder / "shown-results.jsonl").read_text().splitlines()
        assert len(found) == len(snippet.text.splitlines())
