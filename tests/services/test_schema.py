"""The API keeps to its own document, whatever fits that or does not: a thousand examples.

`./run prove api` has twenty times as many.
"""

from __future__ import annotations

import pytest
from fuzz.schema import fuzz
from fuzz.stage import stage

EXAMPLES, SEED = 1000, 13
# Of each the examples must have met some, or they show nothing.
MET = {
    ("POST /v1/chat/completions", 200),
    ("POST /v1/chat/completions", 400),
    ("POST /v1/jobs", 202),
    ("POST /v1/jobs", 400),
    ("POST /v1/files", 200),
    ("POST /v1/files", 400),
    ("POST /v1/batches", 200),
    ("POST /v1/batches", 400),
    ("GET /v1/jobs/{id}", 200),
    ("GET /v1/batches/{id}", 200),
    ("GET /v1/files/{id}/content", 200),
    ("DELETE /v1/files/{id}", 404),
    ("GET /metrics", 200),
    ("GET /metrics", 405),
}


@pytest.mark.timeout(300)
# Of what the fuzzer has made up itself: an example of some length costs time, and is no fault.
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
def test_every_reply_is_as_the_document_says(tmp_path):
    with stage(tmp_path) as fleet:
        findings = fuzz(fleet.api.url, EXAMPLES, SEED)
        assert not findings.failures, "\n\n".join(map("\n".join, findings.failures.items()))
        assert fleet.tracebacks() == []
    assert findings.examples >= EXAMPLES
    assert MET - set(findings.answered) == set()
