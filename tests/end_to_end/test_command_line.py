"""`fallthrough`, as a person uses it, over the embedded stack; the CPU server is a stub."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import redis
from harness.commands import FALLTHROUGH, Up, alive, environ, run, threads
from harness.upstream import Upstream
from harness.waiting import free_port, wait_until

from cli.stack.memory import machine_memory, store_memory


@pytest.fixture(scope="module")
def cpu():
    upstream = Upstream("cpu-model")
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory, cpu):
    """One stack for the commands that only use it."""
    up = Up(tmp_path_factory.mktemp("up") / "data", FALLTHROUGH_CPU_URL=cpu.url)
    yield up
    up.stop()


HOSTILE = "import sys\nsys.stderr.write('MINE was imported\\n')\nsys.exit(3)\n"


def test_up_is_deaf_to_what_stands_around_it(tmp_path, cpu):
    names = ("tasks", "api", "workers", "cli", "circuit_breaker", "flowerconfig", "json", "celery")
    for name in names:
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    up = Up(
        tmp_path / "data",
        cwd=tmp_path,
        FALLTHROUGH_CPU_URL=cpu.url,
        FALLTHROUGH_PORT="tcp://10.96.0.7:8000",
        FALLTHROUGH_SERVICE_HOST="10.96.0.7",
        CELERY_BROKER_URL="redis://127.0.0.1:1/0",
        CELERY_LOADER="somebody.elses:Loader",
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "nowhere"),
        CELERY_CUSTOM_WORKER_POOL="somebody.elses:Pool",
    )
    try:
        job = httpx.post(f"{up.url}/v1/jobs", json={"prompt": "Hello"}).json()
        job = httpx.get(f"{up.url}/v1/jobs/{job['id']}?wait=20", timeout=30).json()
        assert job["text"] == "cpu-model: Hello"
        assert httpx.get(f"{up.told['flower_url']}/api/workers", timeout=10).is_success
    finally:
        assert up.stop() == 0
    logs = [log.read_text() for log in (tmp_path / "data" / "logs").iterdir()]
    assert len(logs) >= 5
    assert not any("MINE" in log for log in logs)


def test_up_listens_where_it_is_told_to(tmp_path, cpu):
    up = Up(tmp_path / "data", FALLTHROUGH_CPU_URL=cpu.url, FALLTHROUGH_HOST="::1")
    try:
        assert up.url.startswith("http://[::1]:")
        assert httpx.get(f"{up.url}/health/ready").is_success
    finally:
        assert up.stop() == 0


def test_up_says_what_is_wrong_with_a_tier_and_goes_on(tmp_path, cpu):
    up = Up(
        tmp_path / "data",
        FALLTHROUGH_GPU_URL=f"http://127.0.0.1:{free_port()}",
        FALLTHROUGH_GPU_API_KEY="sk-hunter2",
        FALLTHROUGH_CPU_URL=cpu.url,
    )
    try:
        wait_until(lambda: "start the server" in up.said)
        assert re.search(r"gpu +reach +failed +127.0.0.1:[0-9]+: connection refused", up.said)
        assert not re.search(r"(store|broker|cpu) +\w+ +failed", up.said)
        assert "sk-hunter2" not in up.said
        answered = run("submit", "Hello", "--url", up.url)
        assert answered.stdout == "cpu-model: Hello\n"
    finally:
        assert up.stop() == 0


def test_a_prompt_is_answered_on_standard_output(up):
    done = run("submit", "Hello", "--url", up.url)
    assert (done.returncode, done.stdout) == (0, "cpu-model: Hello\n")


def test_a_models_escape_sequences_do_not_reach_a_terminal(up):
    master, slave = pty.openpty()
    subprocess.run(
        [*FALLTHROUGH, "submit", "\x1b]0;owned\x07", "--url", up.url],
        env=environ(),
        stdout=slave,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    os.close(slave)
    assert os.read(master, 4096) == b"cpu-model: \\x1b]0;owned\\x07\r\n"
    os.close(master)


def test_what_lies_in_the_data_folder_is_nobody_elses(up):
    data = Path(up.told["data_dir"])
    assert {path.name for path in data.iterdir()} >= {"valkey", "files", "logs", "lock"}
    for path in data.rglob("*"):
        assert not path.stat().st_mode & 0o077, path
    [port] = [
        part["url"].rpartition(":")[2] for part in up.told["parts"] if part["part"] == "valkey"
    ]
    with socket.create_connection(("127.0.0.1", int(port)), 5) as connection:
        connection.sendall(b"KEYS *\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")
    secret = (data / "valkey" / "valkey.conf").read_text().split()[1]
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in up.pids.values()]
    assert not any(secret in command for command in commands)
    assert secret not in json.dumps(up.told)


def test_the_store_refuses_new_work_before_the_machine_is_out_of_memory(up):
    secret = (Path(up.told["data_dir"]) / "valkey" / "valkey.conf").read_text().split()[1]
    [url] = [part["url"] for part in up.told["parts"] if part["part"] == "valkey"]
    with redis.Redis.from_url(url, password=secret) as client:
        memory = client.info("memory")
        assert memory["maxmemory_policy"] == "noeviction"
        assert memory["maxmemory"] == store_memory(machine_memory())
        client.config_set("maxmemory", memory["used_memory"])  # as if it were full

        def refusal():
            answer = httpx.post(f"{up.url}/v1/jobs", json={"prompt": "Hello"})
            return None if answer.is_success else answer

        try:
            refused = wait_until(refusal, 5)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "store_full")
            assert int(refused.headers["retry-after"]) > 0
        finally:
            client.config_set("maxmemory", memory["maxmemory"])
            wait_until(lambda: refusal() is None, 5)


@pytest.mark.parametrize("folder", ["/etc/passwd/x", "/proc/x"])
def test_a_data_folder_that_cannot_be_made_is_told_in_one_line(folder):
    done = run("up", "--port", "0", "--flower-port", "0", "--data-dir", folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"fallthrough: --data-dir: {folder} cannot be used: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_file_becomes_a_file_of_results(up, tmp_path):
    prompts, results = tmp_path / "p.jsonl", tmp_path / "r.jsonl"
    lines = [{"custom_id": f"line-{n}", "prompt": f"p {n}"} for n in range(30)]
    prompts.write_text("\n".join(json.dumps(line) for line in lines))
    done = run("submit", str(prompts), "--output", str(results), FALLTHROUGH_API_URL=up.url)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(r["custom_id"], r["text"]) for r in rows] == [
        (f"line-{n}", f"cpu-model: p {n}") for n in range(30)
    ]


def test_lines_from_standard_input_and_json_for_machines(up):
    done = run("submit", "-", "--wait", "--json", "--url", up.url, stdin="one\ntwo\n")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [
        "cpu-model: one",
        "cpu-model: two",
    ]


def test_a_job_is_followed_and_cancelled(up, cpu):
    cpu.delay = 20.0  # cancelled long before
    try:
        job = json.loads(run("submit", "x", "--no-wait", "--json", "--url", up.url).stdout)
        assert "queued" in job["status"]
        assert "cancelled" in run("cancel", job["id"], "--url", up.url).stdout
        shown = run("status", job["id"], "--url", up.url)
        assert shown.stdout.startswith(f"{job['id']}  cancelled")
    finally:
        cpu.delay = 0.0


def test_breakers_are_shown_and_reset(up):
    assert "ollama_cpu" in run("breakers", "--url", up.url).stdout
    found = json.loads(run("breakers", "--json", "--url", up.url).stdout)
    assert found["ollama_cpu"]["state"] == "closed"
    assert run("breakers", "--url", up.url, "reset", "ollama_cpu").stdout == "ollama_cpu: closed\n"
    assert run("breakers", "--url", up.url, "reset", "nobody").returncode == 2


def test_a_breaker_is_opened_by_hand_and_everybody_sees_why(up):
    done = run("breakers", "--url", up.url, "open", "redis_cache", "--why", "a new disk")
    try:
        assert done.stdout == "redis_cache: open (by hand: open)\n"
        shown = run("breakers", "--url", up.url).stdout
        assert "anonymous" in shown
        assert "new disk" in shown
        disabled = run("breakers", "--url", up.url, "disable", "redis_cache").stdout
        assert disabled == "redis_cache: closed (by hand: disabled)\n"
        assert run("breakers", "--url", up.url, "auto", "redis_cache").stdout == (
            "redis_cache: closed\n"
        )
    finally:
        run("breakers", "--url", up.url, "reset", "redis_cache")


def doctors_rows(up, **settings):
    done = run("doctor", "--json", "--data-dir", up.told["data_dir"], **settings)
    secret = (Path(up.told["data_dir"]) / "valkey" / "valkey.conf").read_text().split()[1]
    assert secret not in done.stdout + done.stderr
    rows = {(row["part"], row["check"]): row for row in json.loads(done.stdout)}
    return done.returncode, rows


def test_the_doctor_finds_the_stack_and_asks_with_its_settings(up):
    run("breakers", "--url", up.url, "reset", "ollama_cpu")
    status, rows = doctors_rows(up)
    assert status == 0, rows
    assert {part for part, check in rows if check == "process"} == set(up.pids)
    assert {part for part, check in rows if check == "reach"} == {"api", "store", "broker", "cpu"}
    assert {part for part, check in rows if check == "breaker"} == {
        *("max_gpu", "ollama_cpu", "redis_cache")
    }
    assert rows["workers", "number"]["detail"] == "2"
    status, rows = doctors_rows(up, FALLTHROUGH_REDIS_URL="redis://127.0.0.1:1/0")
    assert rows["store", "reach"]["state"] == "ok", "the stack's settings are its own"


def test_the_doctor_says_what_is_wrong_with_a_running_stack(up, cpu):
    cpu.mode = "401"
    try:
        done = run("doctor", "--data-dir", up.told["data_dir"])
    finally:
        cpu.mode = "ok"
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:3] == ["cpu", "key", "failed"])
    assert lines[at + 1].strip().startswith("→ set FALLTHROUGH_CPU_API_KEY")
    assert "checks failed" in done.stderr


def test_a_shell_gets_what_the_stack_works_with(up):
    exports = run("env", "--data-dir", up.told["data_dir"])
    assert exports.returncode == 0, exports.stderr
    asks = f'{exports.stdout}\nexec "{sys.executable}" -P -m workers.check'
    done = subprocess.run(
        ["/bin/bash", "-c", asks], env=environ(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    assert {row["part"] for row in json.loads(done.stdout)} == {"store", "broker", "cpu"}
    told = json.loads(run("env", "--json", "--data-dir", up.told["data_dir"]).stdout)
    assert told["FALLTHROUGH_API_URL"] == up.url
    assert not any("WORKER" in name for name in told)


def test_a_batch_from_a_file_to_its_results(up, tmp_path):
    prompts, results = tmp_path / "p.txt", tmp_path / "r.jsonl"
    prompts.write_text("".join(f"line {n}\n" for n in range(300)))
    done = run("batch", str(prompts), "--output", str(results), "--url", up.url)
    assert done.returncode == 0, done.stderr
    assert "completed: 300 answered, 0 failed, of 300" in done.stderr
    assert "answered: 300 by cpu cpu-model" in done.stderr
    rows = [json.loads(text) for text in results.read_text().splitlines()]
    answers = {r["custom_id"]: r["response"]["body"]["choices"][0]["message"] for r in rows}
    assert answers["17"]["content"] == "cpu-model: line 16"
    assert len(answers) == 300


def test_who_may_answer_is_named_for_a_prompt_and_for_a_batch(up, tmp_path):
    done = run("submit", "Hello", "--tiers", "cpu, cache", "--url", up.url)
    assert (done.returncode, done.stdout) == (0, "cpu-model: Hello\n")
    (prompts := tmp_path / "p.txt").write_text("Hello\n")
    for command in (["submit", "Hello"], ["batch", str(prompts)]):
        done = run(*command, "--tiers", "gpu", "--url", up.url)
        assert done.returncode == 2
        assert "there is no tier 'gpu'; there are cpu, cache" in done.stderr
    done = run("batch", str(prompts), "--tiers", "cpu", "--url", up.url)
    assert "1 by cpu cpu-model" in done.stderr


def test_a_batch_is_left_listed_cancelled_and_come_back_to(up, cpu, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(f'{{"prompt": "slow {n}"}}\n' for n in range(50)))
    cpu.delay = 0.3
    try:
        left = run("batch", str(prompts), "--detach", "--url", up.url)
        batch_id = left.stdout.strip()
        assert batch_id in run("batch", "list", "--url", up.url).stdout
        process = subprocess.Popen(
            [*FALLTHROUGH, "batch", "attach", batch_id, "--url", up.url],
            env=environ(),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: threads(process.pid) > 1, what="it shows how far the batch is")
        process.send_signal(signal.SIGINT)
        assert f"fallthrough batch attach {batch_id}" in process.communicate(timeout=10)[1]
        assert process.returncode == 130
        assert "cancel" in run("batch", "cancel", batch_id, "--url", up.url).stdout
    finally:
        cpu.delay = 0.0
    output = tmp_path / "r.jsonl"
    ended = run("batch", "attach", batch_id, "--output", str(output), "--json", "--url", up.url)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["status"] == "cancelled"
    assert len(output.read_text().splitlines()) == 50


def test_a_batch_that_cannot_be_read_says_why(up, tmp_path):
    prompts = tmp_path / "p.jsonl"
    body = {"messages": [{"role": "user", "content": "x"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    prompts.write_text(json.dumps(line) + "\n{\n")
    done = run("batch", str(prompts), "--url", up.url)
    assert done.returncode == 1
    assert "line 2: this line is not parseable" in done.stderr
    assert run("batch", str(tmp_path / "none.txt"), "--url", up.url).returncode == 2


def test_the_load_test_tells_rates_percentiles_tiers_and_breakers(up):
    script = Path(__file__).parents[2] / "load_test.py"
    command = [sys.executable, str(script), "--requests", "200", "--concurrency", "20"]
    done = subprocess.run(
        [*command, "--url", up.url, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["answered"], found["tiers"]) == (200, {"cpu": 200})
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    told = subprocess.run(
        [*command, "--url", up.url], capture_output=True, text=True, timeout=60, check=True
    )
    assert "200 of 200 answered" in told.stdout


@pytest.mark.parametrize("way", ["option", "environment"])
def test_the_load_test_gives_its_api_key(cpu, way):
    script = Path(__file__).parents[2] / "load_test.py"
    command = [sys.executable, str(script), "--requests", "1", "--url", cpu.url]
    option, setting = ["--api-key", "secret"], {"FALLTHROUGH_API_KEY": "secret"}
    subprocess.run(
        [*command, *(option if way == "option" else [])],
        env=environ(**(setting if way == "environment" else {})),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert cpu.calls[-1].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_load_test_gives_figures_when_it_is_interrupted(cpu, options):
    script = Path(__file__).parents[2] / "load_test.py"
    before = len(cpu.calls)
    cpu.delay = 0.05
    try:
        process = subprocess.Popen(
            [sys.executable, str(script), "--requests", "100000", "--url", cpu.url, *options],
            env=environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: len(cpu.calls) > before + 100)
        process.send_signal(signal.SIGINT)
        told, complaint = process.communicate(timeout=10)
    finally:
        cpu.delay = 0.0
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in complaint
    answered = json.loads(told)["answered"] if options else int(told.split()[0])
    assert 0 < answered < 100_000
    assert "p99" in told


def test_interrupted_it_says_how_to_come_back(up, cpu):
    cpu.mode = "hang"
    try:
        process = subprocess.Popen(
            [*FALLTHROUGH, "submit", "hanging", "--url", up.url],
            env=environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: "hanging" in cpu.prompts())
        wait_until(lambda: threads(process.pid) > 1, what="it waits for what it submitted")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        cpu.mode = "ok"
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert out.startswith("job_")
    assert "fallthrough status" in err
    run("cancel", out.strip(), "--url", up.url)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["submit", " "], "empty"),
        (["submit", "x", "--output", "/nowhere/r.jsonl"], "cannot write /nowhere/r.jsonl"),
        (["status", "job_unknown"], "no job 'job_unknown'"),
        (["submit", "x", "--temperature", "9"], "temperature"),
    ],
)
def test_what_is_the_users_to_mend_is_one_line_and_status_2(up, arguments, said):
    done = run(*arguments, FALLTHROUGH_API_URL=up.url)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_api_it_says_what_to_start():
    done = run("submit", "x", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "fallthrough up" in done.stderr


def test_a_setting_that_makes_no_sense_stops_every_part_with_one_line():
    for module in ("cli.main config", "cli.main up", "api", "workers"):
        done = subprocess.run(
            [sys.executable, "-m", *module.split()],
            env=environ(FALLTHROUGH_GPU_CONCURRENCY="many"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, module
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "FALLTHROUGH_GPU_CONCURRENCY: 'many' is not a whole number" in done.stderr


def test_config_shows_every_setting_secrets_masked():
    done = run("config", FALLTHROUGH_GPU_API_KEY="sk-secret", FALLTHROUGH_GPU_URL="http://gpu:1")
    assert "* FALLTHROUGH_GPU_URL=http://gpu:1" in done.stdout
    assert "sk-secret" not in done.stdout
    assert "FALLTHROUGH_DRAIN_SECONDS=20" in done.stdout


def test_a_taken_port_is_named_with_the_option_that_moves_it(up, tmp_path):
    port = up.url.rsplit(":", 1)[1]
    done = run("up", "--port", port, "--data-dir", str(tmp_path / "d"))
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--port N" in done.stderr


def test_a_data_folder_has_one_stack_at_a_time(up):
    done = run("up", "--port", "0", "--flower-port", "0", "--data-dir", up.told["data_dir"])
    assert done.returncode == 2
    assert "--data-dir" in done.stderr


def test_a_part_that_dies_is_restarted_and_a_stop_leaves_nothing_behind(tmp_path, cpu):
    up = Up(tmp_path / "data", "--workers", "2", FALLTHROUGH_CPU_URL=cpu.url)
    assert set(up.pids) == {
        *("valkey", "worker-interactive", "worker-batch-1", "worker-batch-2", "api", "flower")
    }
    done = run("submit", "before", "--json", "--url", up.url)
    job_id = json.loads(done.stdout)["id"]
    for part in ("worker-interactive", "valkey"):
        os.kill(up.pids[part], signal.SIGKILL)
        wait_until(lambda part=part: f"{part} restarted" in up.said, 10)
    wait_until(lambda: httpx.get(f"{up.url}/health/ready").is_success, 20)
    assert run("submit", "after", "--url", up.url).stdout == "cpu-model: after\n"
    began = time.monotonic()
    assert up.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 15
    wait_until(lambda: not any(alive(pid) for pid in up.pids.values()), 5)

    again = Up(tmp_path / "data", FALLTHROUGH_CPU_URL=cpu.url)
    try:
        shown = json.loads(run("status", job_id, "--json", "--url", again.url).stdout)
        assert shown["text"] == "cpu-model: before", "the data folder survives"
    finally:
        again.stop()


def test_a_supervisor_that_is_killed_takes_its_parts_along(tmp_path, cpu):
    up = Up(tmp_path / "data", "--workers", "0", FALLTHROUGH_CPU_URL=cpu.url)
    up.stop(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in up.pids.values()), 40)


def test_a_gpu_server_alone_is_no_reason_for_the_small_model_to_answer(tmp_path):
    gpu = Upstream("gpu-model")
    up = Up(tmp_path / "data", "--workers", "0", FALLTHROUGH_GPU_URL=gpu.url)
    try:
        assert "model" not in up.pids
        chain = {link["tier"]: link["who"] for link in up.told["chain"]}
        assert list(chain) == ["gpu", "cpu", "cache", "degraded"]
        assert "--cpu embedded" in chain["cpu"]
        for tier, who in chain.items():
            assert f"  {tier:9} {who}\n" in up.said
        gpu.mode = "500"
        job = httpx.post(f"{up.url}/v1/jobs", json={"prompt": "Hello"}).json()
        job = httpx.get(f"{up.url}/v1/jobs/{job['id']}?wait=20", timeout=30).json()
        assert (job["tier_used"], [a["tier"] for a in job["attempts"]]) == (
            "degraded",
            ["gpu", "cache"],
        )
    finally:
        assert up.stop() == 0
        gpu.close()


def test_two_cpu_servers_are_one_too_many():
    done = run("up", "--cpu", "embedded", FALLTHROUGH_CPU_URL="http://127.0.0.1:1")
    assert (done.returncode, "take one of them away" in done.stderr) == (2, True)
