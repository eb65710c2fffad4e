"""A phase of a batch that its workers die of ends, as its batch's failure; the rest lives."""

from __future__ import annotations

from typing import NamedTuple

import httpx
import openai
import pytest
from harness.batches import check_every_line_once, line, read, start
from harness.crashes import Crashes
from harness.waiting import wait_until

from tasks.records.losses import MOST_LOSSES
from tasks.storage import content_name, custom_ids_name, joined_name, part_name, parts_folder

FINAL = {"completed", "failed", "expired", "cancelled"}
LINES, SLICE = 40, 16
EVER = 1000  # times


class Fault(NamedTuple):
    """What goes wrong, how often at most, and how often it does."""

    what: str
    times: int
    met: int


FAULTS = {
    "killed each time": Fault("killed", EVER, MOST_LOSSES),
    "killed once": Fault("killed", 1, 1),
    "a defect each time": Fault("defect", EVER, MOST_LOSSES),
    "storage away": Fault("away", MOST_LOSSES + 1, MOST_LOSSES + 1),
}
# What a phase writes; of the parts, one that has answered lines before and after it.
WRITES = {
    "validate": custom_ids_name,
    "part": lambda batch: part_name(batch, "1", "output"),
    "join": lambda batch: content_name(joined_name(batch, "output")),
}


def ids_of(prefix, number=LINES):
    return [f"{prefix}{n}" for n in range(number)]


class Neighbours:
    """A batch and lone jobs that the same worker has."""

    def __init__(self, http, sdk):
        self._http, self._sdk = http, sdk
        self.batch = start(sdk, [line(name, name) for name in ids_of("near")])
        requests = [{"prompt": name, "cache": "off"} for name in ids_of("lone", 8)]
        created = http.post("/v1/jobs", json={"requests": requests}).json()["data"]
        self.jobs = [job["id"] for job in created]

    def check(self):
        wait_until(self._ended, 60, "the neighbours have ended")
        batch = self._sdk.batches.retrieve(self.batch.id)
        assert batch.status == "completed"
        _, errors = check_every_line_once(self._sdk, batch, ids_of("near"))
        assert errors == [], "nobody else is to blame"

    def _ended(self):
        jobs = [self._http.get(f"/v1/jobs/{job_id}").json()["status"] for job_id in self.jobs]
        assert set(jobs) <= {"queued", "running", "succeeded"}
        batch = self._sdk.batches.retrieve(self.batch.id)
        return batch.status in FINAL and set(jobs) == {"succeeded"}


@pytest.fixture
def stack(fleet, tmp_path):
    """An API, and a worker that is not started yet, with short leases; what goes wrong in it.

    A lease of a second ends on a busy machine though its worker lives: a loss that was none.
    """
    worker = fleet.worker(lease_seconds=2, slice_lines=SLICE)
    fleet.start(api := fleet.api())
    with (
        httpx.Client(base_url=api.url, timeout=30) as http,
        openai.OpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=5) as sdk,
    ):
        yield worker, Crashes(tmp_path / "crashes", worker), http, sdk


def results_of(http, batch):
    """Return the custom_ids that the pages of a batch's results have."""
    found, after = [], "0.0"
    while True:
        page = http.get(f"/v1/batches/{batch.id}/results?limit=7&after={after}").json()
        found += [each["custom_id"] for each in page["data"]]
        after = page["next"]
        if page["done"]:
            return sorted(found)


def follow(worker, sdk, batch_id):
    """Return a batch as it ends; start the worker again whenever it has died."""
    worker.start(ready=False)

    def ended():
        if worker.process.poll() is not None:
            worker.start(ready=False)
        batch = sdk.batches.retrieve(batch_id)
        return batch if batch.status in FINAL else None

    return wait_until(ended, 90, "the batch ends")


def check_it_says_why(batch):
    assert batch.status == "failed"
    assert batch.failed_at is not None
    [error] = batch.errors.data
    assert error.code == "worker_lost"
    return error


@pytest.mark.timeout(150)
@pytest.mark.parametrize("phase", WRITES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_phase_ends_its_worker_three_times_at_most_and_no_other_work_with_it(stack, phase, fault):
    (worker, crashes, http, sdk), (what, times, met) = stack, FAULTS[fault]
    neighbours = Neighbours(http, sdk)
    victim = start(sdk, [line(name, name) for name in ids_of("c")])
    crashes.put(WRITES[phase](victim.id), what, times)
    batch = follow(worker, sdk, victim.id)
    neighbours.check()
    assert crashes.met == met
    if times < EVER:
        assert batch.status == "completed"
        output, _ = check_every_line_once(sdk, batch, ids_of("c"))
        assert (len(output), batch.errors) == (LINES, None)
        return
    error = check_it_says_why(batch)
    if phase == "validate":
        assert (batch.request_counts.total, results_of(http, batch)) == (0, [])
    elif phase == "part":  # the joining could write what the part's writer could not
        assert error.line == SLICE + 1
        check_every_line_once(sdk, batch, ids_of("c"))
        assert results_of(http, batch) == sorted(ids_of("c"))
    else:
        assert (batch.output_file_id, batch.error_file_id) == (None, None)
        assert results_of(http, batch) == sorted(ids_of("c"))


@pytest.mark.timeout(150)
def test_where_no_part_of_a_batch_can_be_written_its_joining_is_given_up_as_well(stack):
    worker, crashes, http, sdk = stack
    neighbours = Neighbours(http, sdk)
    victim = start(sdk, [line(name, name) for name in ids_of("c")])
    crashes.put(f"{parts_folder(victim.id)}/", "killed", EVER)
    batch = follow(worker, sdk, victim.id)
    neighbours.check()
    check_it_says_why(batch)
    assert read(sdk, batch.output_file_id) == []
    assert results_of(http, batch) == []
    assert crashes.met <= 3 * MOST_LOSSES + MOST_LOSSES, "three slices, and the joining"
