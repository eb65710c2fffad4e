"""Whatever is killed in whatever phase, a batch ends with every line exactly once."""

from __future__ import annotations

import signal
import time

import openai
import pytest
from harness.amounts import BATCH_LINES
from harness.batches import check_every_line_once, ended, line, start
from harness.valkey import Snapshot
from harness.waiting import wait_until


@pytest.fixture
def stack(fleet):
    """An API and a worker whose leases are short: whoever comes after it need not wait long."""
    return fleet.start(fleet.api(), fleet.worker("batch", slice_lines=16, lease_seconds=1))


@pytest.fixture
def api(stack):
    return stack[0]


@pytest.fixture
def worker(stack):
    return stack[1]


def client_of(api):
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=8)


@pytest.fixture
def sdk(api):
    with client_of(api) as client:
        yield client


def lines_of(number):
    return [line(f"c{n}", str(n)) for n in range(number)]


def ids_of(number):
    return [f"c{n}" for n in range(number)]


def kill(process):
    process.signal(signal.SIGKILL)
    process.wait()


def counts(sdk, batch):
    return sdk.batches.retrieve(batch.id).request_counts


def status(sdk, batch):
    return sdk.batches.retrieve(batch.id).status


def test_killed_while_it_validates(fleet, sdk, api, worker):
    batch = start(sdk, lines_of(20_000), metadata={"fallthrough_on_exhausted": "fail"})
    kill(worker)
    kill(api)
    fleet.start(worker, api)
    wait_until(lambda: status(sdk, batch) == "in_progress", 20)
    sdk.batches.cancel(batch.id)
    done = ended(sdk, batch.id)
    check_every_line_once(sdk, done, ids_of(20_000))


def test_killed_while_it_validates_what_is_cancelled(fleet, sdk, api, worker):
    batch = start(sdk, lines_of(20_000))
    kill(worker)
    assert sdk.batches.cancel(batch.id).status == "cancelling"
    kill(api)
    fleet.start(worker, api)
    done = ended(sdk, batch.id)
    assert done.status == "cancelled"
    check_every_line_once(sdk, done, ids_of(20_000))


def test_killed_while_it_feeds(fleet, sdk, api, worker, gpu):
    gpu.delay = 0.1
    batch = start(sdk, lines_of(4000))
    wait_until(lambda: counts(sdk, batch).completed > 0)
    for _ in range(3):
        before = counts(sdk, batch).completed
        kill(worker)
        kill(api)
        fleet.start(worker, api)
        wait_until(lambda before=before: counts(sdk, batch).completed > before + 20)
    gpu.delay = 0.0
    done = ended(sdk, batch.id)
    assert done.status == "completed"
    check_every_line_once(sdk, done, ids_of(4000))


def test_killed_between_a_slices_last_finish_and_its_part(fleet, sdk, api, worker, tmp_path):
    parts = tmp_path / "files" / "parts"
    parts.write_text("in the way")  # no part can be written
    batch = start(sdk, lines_of(64))
    wait_until(lambda: counts(sdk, batch).completed == 64)
    wait_until(lambda: f"part of {batch.id} broke off" in worker.log)
    assert status(sdk, batch) == "in_progress"
    kill(worker)
    kill(api)
    parts.unlink()
    fleet.start(worker, api)
    done = ended(sdk, batch.id)
    output, _ = check_every_line_once(sdk, done, ids_of(64))
    assert len(output) == 64


def test_killed_while_it_joins(fleet, sdk, api, worker, tmp_path):
    batch = start(sdk, lines_of(64))
    joined = tmp_path / "files" / "content" / f"file-{batch.id.removeprefix('batch_')}-output"
    joined.mkdir()  # the output cannot be written
    wait_until(lambda: status(sdk, batch) == "finalizing")
    kill(worker)
    kill(api)
    joined.rmdir()
    fleet.start(worker, api)
    done = ended(sdk, batch.id)
    assert done.status == "completed"
    check_every_line_once(sdk, done, ids_of(64))


def test_killed_while_it_is_cancelled(fleet, sdk, api, worker, gpu):
    gpu.delay = 0.05
    batch = start(sdk, lines_of(400))
    wait_until(lambda: counts(sdk, batch).completed > 20)
    kill(worker)
    assert sdk.batches.cancel(batch.id).status == "cancelling"
    kill(api)
    fleet.start(worker, api)
    done = ended(sdk, batch.id)
    assert done.status == "cancelled"
    output, errors = check_every_line_once(sdk, done, ids_of(400))
    assert output
    assert errors


def test_killed_while_it_expires(fleet, sdk, api, worker, gpu):
    gpu.delay = 0.05
    batch = start(sdk, lines_of(400), completion_window="2s")
    window_ends = time.time() + 2
    wait_until(lambda: counts(sdk, batch).completed > 20)
    kill(worker)
    kill(api)
    wait_until(lambda: time.time() > window_ends)
    fleet.start(worker, api)
    done = ended(sdk, batch.id)
    assert done.status == "expired"
    _, errors = check_every_line_once(sdk, done, ids_of(400))
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}


def test_a_warm_shutdown_hands_over_and_runs_nothing_twice(fleet, gpu):
    gpu.delay = 0.05
    api, worker = fleet.start(fleet.api(), fleet.worker("batch", slice_lines=16))
    with client_of(api) as sdk:
        batch = start(sdk, lines_of(600))
        wait_until(lambda: counts(sdk, batch).completed > 20)
        fleet.worker("batch", slice_lines=16).start()
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0, worker.log
        done = ended(sdk, batch.id)
        check_every_line_once(sdk, done, ids_of(600))
    assert len(gpu.calls) == 600


def test_the_store_is_killed_and_started_again(own_fleet, own_valkey, gpu):
    gpu.delay = 0.02
    api, _ = own_fleet.start(own_fleet.api(), own_fleet.worker("batch", slice_lines=16))
    with client_of(api) as sdk:
        batch = start(sdk, lines_of(600))
        wait_until(lambda: counts(sdk, batch).completed > 50)
        own_valkey.kill()
        own_valkey.start()
        done = ended(sdk, batch.id)
        check_every_line_once(sdk, done, ids_of(600))


def comes_to_rest(upstream):
    calls = len(upstream.calls)
    time.sleep(0.5)
    return len(upstream.calls) - calls <= 1


@pytest.mark.timeout(300 + BATCH_LINES // 100)
def test_through_an_outage_of_a_third_of_its_run_and_a_restart_of_every_worker(fleet, gpu, cpu):
    """`./run prove file` has as many lines as a batch may have (BATCH_LINES)."""
    workers = [fleet.worker("batch", lease_seconds=2) for _ in range(2)]
    api, *_ = fleet.start(fleet.api(), *workers)
    cpu.mode = "500"
    began, seconds = time.monotonic(), 60.0 + BATCH_LINES / 200
    with client_of(api) as sdk:
        batch = start(sdk, lines_of(BATCH_LINES))
        wait_until(lambda: counts(sdk, batch).completed > 0.3 * BATCH_LINES, seconds)
        third = time.monotonic() - began
        gpu.mode = "500"
        out = time.monotonic()
        wait_until(lambda: all("paused" in worker.log for worker in workers), seconds)
        wait_until(lambda: comes_to_rest(gpu), seconds, "what was on its way has come")
        calls = len(gpu.calls)
        wait_until(lambda: time.monotonic() - out > third, seconds)
        assert len(gpu.calls) - calls < 20 + third, "in an outage nobody calls but the probe"
        gpu.mode = "ok"
        ways = [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)]
        for number, (worker, (way, exits)) in enumerate(zip(workers, ways, strict=True)):
            enough = (0.4 + 0.2 * number) * BATCH_LINES
            wait_until(lambda enough=enough: counts(sdk, batch).completed > enough, seconds)
            worker.signal(way)
            assert worker.wait(30) == exits
            worker.start()
        done = ended(sdk, batch.id, seconds)
        assert done.status == "completed"
        output, _ = check_every_line_once(sdk, done, ids_of(BATCH_LINES))
        assert len(output) == BATCH_LINES


@pytest.mark.parametrize("completed", [0, 24, 40])
def test_a_store_that_lost_its_last_second_has_the_batch_done_again(
    own_fleet, own_valkey, gpu, completed
):
    """The files of the batch are there, ahead of its record; each phase runs again from it."""
    gpu.delay = 0.05
    worker = own_fleet.worker("batch", slice_lines=16, gpu_concurrency=4)
    api, _ = own_fleet.start(own_fleet.api(), worker)
    with client_of(api) as sdk, own_valkey.client() as store:
        batch = start(sdk, lines_of(64))
        wait_until(lambda: counts(sdk, batch).completed >= completed)
        snapshot = Snapshot(store)
        assert ended(sdk, batch.id).status == "completed"
        snapshot.restore(store)
        assert status(sdk, batch) != "completed"
        done = ended(sdk, batch.id)
        assert done.status == "completed"
        check_every_line_once(sdk, done, ids_of(64))
