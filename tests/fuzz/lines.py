"""Input files of batches whose lines are mutated: each line is named, or ends exactly once."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fuzz.stage import Stage

CHAT = "/v1/chat/completions"
AT_ONCE = 4
BATCH_SECONDS = 120.0  # in which a batch ends
FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
SHARE_OF_BODIES = 0.7  # of the lines: those whose mutation is one of the body
MOST_IN_BROKEN, MOST_IN_BODIES = 12, 700  # lines of a file: one that is bad fails them all

TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\x1f",
        "\x7f",
        "\u0085",
        "\u2028",
        "\ufeff",
        "\ufffd",
        "\U0010ffff",
        "e\u0301",
    ),
    *(
        "\U0001f469\u200d\U0001f680",
        "\u202e",
        "\r\n",
        "\n",
        "\\",
        '"',
        "a" * 3000,
        "null",
        "{}",
        "٣",
    ),
)
NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**64 - 1, 0.1, -0.0, 1e308, 5e-324)
FIELDS = (
    *(
        "temperature",
        "max_tokens",
        "n",
        "stop",
        "seed",
        "user",
        "metadata",
        "extra",
        "stream",
        "tools",
    ),
    *(
        "response_format",
        "top_p",
        "fallthrough2",
        "logit_bias",
        "messages2",
        "",
        "\u2028",
        "prompt",
    ),
)
RAW = (
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n",
        b"\n\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b",",
    ),
    *(
        b"\\ud800",
        b"\\u0000",
        b"1e999",
        b"1" * 400,
        b"NaN",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"[" * 300,
    ),
)


@dataclass
class Findings:
    """What so many lines came to. failures: what should not be."""

    lines: int = 0
    files: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # lines, by how
    failures: list[str] = field(default_factory=list)


def files(seed: int, lines: int) -> Iterator[tuple[bytes, bool]]:
    """Yield files of so many lines in all, and whether all of a file's are to be taken."""
    place = 0
    while lines > 0:
        chance = random.Random(f"{seed}/{place}")
        bodies = chance.random() < SHARE_OF_BODIES * MOST_IN_BROKEN / MOST_IN_BODIES * 2
        count = min(chance.randint(1, MOST_IN_BODIES if bodies else MOST_IN_BROKEN), lines)
        yield (_bodies if bodies else _broken)(chance, count), bodies
        lines -= count
        place += 1


def _good(chance: random.Random, number: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"line {number} {chance.choice(TEXTS)}"}]
    return {"custom_id": f"{number}", "method": "POST", "url": CHAT, "body": {"messages": messages}}


def _bodies(chance: random.Random, count: int) -> bytes:
    """Lines that validation takes, whatever their bodies hold."""
    lines = []
    for number in range(count):
        line = _good(chance, number)
        line["custom_id"] += chance.choice(TEXTS)
        for _ in range(chance.randrange(4)):
            line["body"][chance.choice(FIELDS)] = _value(chance, 4)
        for _ in range(chance.randrange(3)):
            line["body"]["messages"].append(_value(chance, 3))
        ascii_only = bool(chance.randrange(2))
        lines.append(json.dumps(line, ensure_ascii=ascii_only).encode())
    end = chance.choice((b"\n", b"\r\n", b"\n\n", b"\n \n"))
    head = chance.choice((b"", b"", b"\xef\xbb\xbf", b"\n"))
    return head + end.join(lines) + chance.choice((b"", b"\n"))


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(6 if depth else 4)
    if kind == 4:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 5:
        return {chance.choice(TEXTS): _value(chance, depth - 1) for _ in range(chance.randrange(4))}
    if kind == 3 and not chance.randrange(20):
        value: Any = chance.choice(NUMBERS)
        for _ in range(chance.choice((10, 100, 300))):
            value = [value]
        return value
    return (chance.choice(TEXTS), chance.choice(NUMBERS), chance.choice((True, False, None)))[
        kind % 3
    ]


def _broken(chance: random.Random, count: int) -> bytes:
    """Lines whose bytes are others, are gone, are there twice."""
    lines = [json.dumps(_good(chance, number)).encode() for number in range(count)]
    for number in range(count):
        line = bytearray(lines[number])
        for _ in range(chance.choice((0, 1, 1, 1, 2, 6))):
            at = chance.randrange(len(line) + 1)
            match chance.randrange(7):
                case 0:
                    line[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    line[at:at] = chance.choice(RAW)
                case 2:
                    del line[at : at + chance.randrange(1, 20)]
                case 3:
                    line[at:at] = line[at : at + chance.randrange(1, 40)]
                case 4:  # cut off
                    del line[at:]
                case 5:  # the name of another
                    line = bytearray(chance.choice(lines))
                case 6:  # one more field, or one anew
                    name = chance.choice(("custom_id", "body", "method", "url", "x")).encode()
                    line[1:1] = b'"%s": %s, ' % (
                        name,
                        chance.choice((b"1", b'"a"', b"{}", b"null")),
                    )
        lines[number] = bytes(line)
    return chance.choice((b"\n", b"\n", b"\r\n", b"\n\n")).join(lines) + b"\n"


def fuzz(fleet: Stage, lines: int, seed: int) -> Findings:
    """Run batches of so many lines, a few at once."""
    findings = Findings()
    with (
        httpx.Client(base_url=f"{fleet.api.url}/v1", timeout=60) as client,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        made = files(seed, lines)
        for count, ended, failures in pool.map(lambda file: _run(client, *file), made):
            findings.files += 1
            findings.lines += count
            findings.ended += ended
            findings.failures += failures
    return findings


def _run(client: httpx.Client, content: bytes, taken: bool) -> tuple[int, Counter[str], list[str]]:  # noqa: FBT001
    """Run one file; return its lines, how they ended, and what is wrong with that."""
    file = (
        client.post("/files", files={"file": ("a.jsonl", content)}, data={"purpose": "batch"})
        .raise_for_status()
        .json()
    )
    options = {"fallthrough_on_exhausted": "fail"}
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "1h"}
    batch = client.post("/batches", json={**body, "metadata": options}).raise_for_status().json()
    until = time.monotonic() + BATCH_SECONDS
    while batch["status"] not in FINAL:
        if time.monotonic() > until:
            return 0, Counter(), [f"does not end: {content[:3000]!r}"]
        time.sleep(0.05)
        batch = client.get(f"/batches/{batch['id']}").raise_for_status().json()
    numbers = [n for n, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    count = len(numbers)
    if batch["status"] == "failed" and not taken:
        return count, Counter(refused=count), _faults_of_errors(batch, numbers, content)
    results = {kind: _read(client, batch[f"{kind}_file_id"]) for kind in ("output", "error")}
    ended = Counter({kind: len(lines) for kind, lines in results.items()})
    return count, ended, _faults_of_results(batch, results, content)


def _read(client: httpx.Client, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    content = client.get(f"/files/{file_id}/content").raise_for_status().content
    return [json.loads(line) for line in content.split(b"\n") if line]


def _faults_of_errors(batch: dict[str, Any], numbers: list[int], content: bytes) -> list[str]:
    """Return what is wrong with a refusal: it must name lines that are there."""
    errors = (batch["errors"] or {}).get("data") or []
    named = {error["line"] for error in errors}
    if errors and (named <= set(numbers) or not numbers):
        return []
    return [f"refused without its lines, {errors}: {content[:3000]!r}"]


def _faults_of_results(
    batch: dict[str, Any], results: dict[str, list[dict[str, Any]]], content: bytes
) -> list[str]:
    """Return what is wrong with results: each line is there exactly once."""
    try:
        texts = [
            line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()
        ]
        sent = Counter(json.loads(line)["custom_id"] for line in texts)
    except (ValueError, KeyError, TypeError) as error:
        return [f"taken, though {error!r}: {content[:3000]!r}"]
    seen = Counter(line["custom_id"] for lines in results.values() for line in lines)
    counts = batch["request_counts"]
    whole = (len(texts), len(results["output"]), len(results["error"]))
    faults = []
    if batch["status"] != "completed" or seen != sent:
        faults.append(f"{batch['status']}, {batch['errors']}, {(sent - seen)}, {(seen - sent)}")
    if (counts["total"], counts["completed"], counts["failed"]) != whole:
        faults.append(f"counts {counts}, and there are {whole}")
    return [f"{fault}: {content[:3000]!r}" for fault in faults]
