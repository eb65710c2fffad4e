"""Requests made from the OpenAPI document: those that fit it, and those that do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
import schemathesis
from schemathesis import GenerationMode, engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events
from schemathesis.openapi.checks import RejectedPositiveData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from schemathesis import Case, Response
    from schemathesis.core.failures import Failure

# What is asked of each reply; of the server's own errors only those that the document tells of.
CHECKS = {
    "not_a_server_error": {"enabled": True, "expected-statuses": ["2xx", "3xx", "4xx", 503, 504]},
    "status_code_conformance": {"enabled": True},
    "content_type_conformance": {"enabled": True},
    "response_headers_conformance": {"enabled": True},
    "response_schema_conformance": {"enabled": True},
    "negative_data_rejection": {"enabled": True},
    "positive_data_acceptance": {
        "enabled": True,
        "expected-statuses": ["2xx", 404, 409, 422, 503, 504],
    },
    "unsupported_method": {"enabled": True},
    "allow_header_conformance": {"enabled": True},
}
OPERATIONS = 26  # by which a round's size is reckoned; not all have as many examples
# What is there, which cursors were given, how long a week is.
UNSAID = ("after", "input_file_id", "completion_window")
DEADLINE, SOON = "x-fallthrough-deadline-seconds", "2"
UNKNOWN_HEADER = "x-schemathesis-unknown-property"
CUT = "IncompleteRead"
LINE = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": %s}\n'
INPUT = LINE % b'{"messages": [{"role": "user", "content": "Hello"}]}'


@dataclass
class Findings:
    """What so many examples showed. answered: how often, by operation and status."""

    examples: int = 0
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)  # by operation and check: the first one

    def statuses(self) -> dict[str, int]:
        """Return how often each status was answered."""
        found: Counter[str] = Counter()
        for (_, status), number in sorted(self.answered.items()):
            found[str(status)] += number
        return dict(sorted(found.items()))


def fuzz(url: str, examples: int, seed: int) -> Findings:
    """Send at least so many requests, in rounds whose seeds follow one another."""
    findings = Findings()
    for number in count(seed):
        each = (examples - findings.examples) // OPERATIONS + 1
        for event in _round(url, each, number):
            _note(findings, event)
        if findings.examples >= examples:
            return findings
    raise AssertionError


def _round(url: str, each: int, seed: int) -> Iterator[Any]:
    """Run each operation's own cases, and so many examples besides."""
    config = SchemathesisConfig.from_dict(
        {
            "base-url": url,  # it takes "." of the document for a path of that name
            "seed": seed,
            "continue-on-failure": True,
            "request-timeout": 20.0,
            "checks": {"enabled": False, **CHECKS},
            "generation": {"max-examples": each, "mode": "all", "no-shrink": True},
            "phases": {"stateful": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    for hook in (_sensible(url), filter_case, filter_failure):
        schema.hook(hook)
    return iter(engine.from_schema(schema).execute())


def _sensible(url: str) -> Callable[[object, Case], Case]:
    """Return what makes a case that fits likelier to be taken: of a file that is there, say."""
    form = {"files": {"file": ("a.jsonl", INPUT)}, "data": {"purpose": "batch"}}
    file_ids = [httpx.post(f"{url}/v1/files", **form).json()["id"] for _ in range(3)]
    calls = count()

    def map_case(_: object, case: Case) -> Case:  # schemathesis knows its hooks by their names
        number = next(calls)
        if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
            return case
        if number % 5:
            case.headers.pop("Idempotency-Key", None)
        if case.path == "/v1/batches" and isinstance(case.body, dict):
            case.body = {**case.body, "input_file_id": file_ids[number % 3]}
        _hasten(case)
        return case

    return map_case


def _hasten(case: Case) -> None:
    """Have whoever waits for an answer that no tier may give not do so for days."""
    if DEADLINE in case.headers:
        case.headers[DEADLINE] = SOON
    handling = case.body.get("fallthrough") if isinstance(case.body, dict) else None
    if isinstance(handling, dict) and handling.get("deadline_seconds"):
        case.body = {**case.body, "fallthrough": {**handling, "deadline_seconds": float(SOON)}}


def filter_case(_: object, case: Case) -> bool:
    """Leave out what is no fault: a list of nothing in a form, a header that nobody knows.

    The first is as if the field were not there; proxies add headers of their own.
    """
    if UNKNOWN_HEADER in case.headers:
        return False
    form = case.body if case.path == "/v1/files" else None
    return not isinstance(form, dict) or [] not in form.values()


def filter_failure(_: object, failure: Failure, case: Case, response: Response) -> bool:
    """Leave out refusals for reasons that no document can say."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    error = response.json()["error"]
    # JSON Schema's integers may be written as 1.0; ours not.
    return error["param"] not in UNSAID and "decimal point" not in error["message"]


def _note(findings: Findings, event: Any) -> None:
    # A stream that breaks off says so by a body that is cut.
    if isinstance(event, events.NonFatalError) and CUT not in str(event.info):
        findings.failures.setdefault(f"{event.label}: no examples", str(event.info))
    if isinstance(event, events.FatalError):
        findings.failures["fatal"] = repr(event.exception)
    if not isinstance(event, events.ScenarioFinished):
        return
    recorder = event.recorder
    findings.examples += len(recorder.interactions)
    for interaction in recorder.interactions.values():
        status = interaction.response.status_code if interaction.response else 0
        findings.answered[recorder.label, status] += 1
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is not None:
                reply = recorder.interactions[case_id].response
                said = reply.content[:300] if reply else b""
                text = f"{check.failure_info.failure}\n{check.failure_info.code_sample}\n{said!r}"
                findings.failures.setdefault(f"{recorder.label} {check.name}", text)
