"""`python -m workers.check`: ask all that a worker works with, and tell what to do; JSON.

It asks with a worker's own settings and clients, so that what is well here is well there. Prints a
list of rows {part, check, state, detail, advice}; state is ok, failed, or none: nothing of that
kind is set up. Exit status: 1 if something failed, 2 if the settings make no sense.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from importlib.metadata import packages_distributions
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from fallback_chain import Fault, Finding, check_tier
from tasks.app import create_app
from tasks.broker.publisher import Publisher
from tasks.errors import FallthroughError, PublishError, SettingsError, StoreUnavailable, StoreUnfit
from tasks.hosts import goes_direct
from tasks.settings import Settings
from tasks.store.connection import Connection
from tasks.store.durability import Durability
from tasks.tiers.build import build_http, tier_configs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fallback_chain import Http, TierConfig

DISTRIBUTION = "fallthrough"
# Names that other distributions may have, too: the one that is installed last overwrites the other.
PACKAGES = ("api", "circuit_breaker", "cli", "fallback_chain", "flowerconfig", "tasks", "workers")
OK, FAILED, NONE = "ok", "failed", "none"
LONGEST_REASON = 300  # characters of a client's own words

URL, KEY = "FALLTHROUGH_{tier}_URL", "FALLTHROUGH_{tier}_API_KEY"
MODEL, SECONDS = "FALLTHROUGH_{tier}_MODEL", "FALLTHROUGH_{tier}_TIMEOUT_SECONDS"
VOUCH = "name a file of who vouches for it (PEM) in FALLTHROUGH_CA_FILE"
ADVICE: Mapping[Fault, str] = {
    Fault.UNKNOWN_HOST: f"look at the host's name in {URL}, and whether this machine resolves it",
    Fault.REFUSED: f"start the server, have it listen beyond its own loopback, or mend {URL}",
    Fault.UNREACHABLE: f"look at the network between, and at {URL} and FALLTHROUGH_PROXY",
    Fault.NO_PROXY: "look at FALLTHROUGH_PROXY, or name the host in FALLTHROUGH_NO_PROXY",
    Fault.NO_CONNECTION: f"look for a firewall between, and at {URL} and FALLTHROUGH_PROXY",
    Fault.SILENT: f"look at the server's log; if it is only slow, raise {SECONDS}",
    Fault.BROKEN_OFF: f"look at the server's log; if it speaks TLS, {URL} must say https://",
    Fault.NO_HTTP: f"something else listens there: mend the port in {URL}",
    Fault.NO_TLS: f"the server speaks no TLS there: mend the port in {URL}, or say http://",
    Fault.SELF_SIGNED: f"{VOUCH}: here the certificate itself",
    Fault.UNKNOWN_AUTHORITY: f"{VOUCH}; the server must send what stands between, too",
    Fault.OTHER_HOST: f"name the server in {URL} as its certificate does, or give it another",
    Fault.OUT_OF_DATE: "renew the server's certificate, or mend this machine's clock",
    Fault.BAD_CERTIFICATE: "look at the server's certificate: openssl s_client -connect host:port",
    Fault.KEY_WANTED: f"set {KEY}",
    Fault.KEY_REFUSED: f"mend {KEY}: expired, of another service, or without leave for this model",
    Fault.UNPAID: "look at the account behind the key: it has no credit left",
    Fault.NO_MODEL: f"set {MODEL} to one that is there, or have the server load it",
    Fault.NO_API: f"mend {URL}: it is the address before /v1/chat/completions",
    Fault.BUSY: "nothing, if it is only busy now: calls go to the next tier meanwhile",
    Fault.NOT_READY: "wait until the server has loaded its model, and check again",
    Fault.NO_ANSWER: "look at the server's log, and ask it by hand with curl",
}
MAKE_ROOM = (
    "raise its maxmemory, or wait: finished jobs go after FALLTHROUGH_RESULT_TTL_SECONDS, cached "
    "answers after FALLTHROUGH_CACHE_TTL_SECONDS"
)


class Row(NamedTuple):
    """One check of one part, as it is told. detail, advice: for people; no secret is in them."""

    part: str
    check: str
    state: str
    detail: str
    advice: str = ""


async def check_all(settings: Settings) -> list[Row]:
    """Ask store, broker and every tier, all at once; never raises for what is not well.

    Raises SettingsError for authorities that cannot be read.
    """
    http = build_http(settings)
    configs = [each for config in tier_configs(settings).values() for each in config.endpoints]
    try:
        rows = await asyncio.gather(
            _store(settings),
            _broker(settings),
            *(_tier(config, http, settings) for config in configs),
        )
    finally:
        await http.aclose()
    told = [*packages(packages_distributions()), *(row for part in rows for row in part)]
    if not configs:
        first = next(iter(settings.model_tiers)).upper()
        advice = f"set {URL.format(tier=first)} to the model server's address"
        told.append(Row("tiers", "reach", NONE, "no model server is set up", advice))
    return told


def packages(owners: Mapping[str, Sequence[str]]) -> list[Row]:
    """Return a row for each of our packages that another distribution has as well.

    owners: the distributions that have a top-level package, by its name.
    """
    advice = "install Fallthrough in an environment of its own"
    return [
        Row("install", "packages", FAILED, f"the distribution {other} has {name}, too", advice)
        for name in PACKAGES
        for other in sorted(set(owners.get(name, ())) - {DISTRIBUTION})
    ]


async def _tier(config: TierConfig, http: Http, settings: Settings) -> list[Row]:
    host = urlsplit(config.url).hostname or ""
    direct = not settings.proxy or goes_direct(host, settings.no_proxy)
    findings = await check_tier(config, http, direct=direct, authorities=settings.ca_file)
    return [_row(config, finding) for finding in findings]


def _row(config: TierConfig, finding: Finding) -> Row:
    part = config.name if config.number == 1 else f"{config.name}:{config.number}"
    if finding.fault is None:
        return Row(part, finding.check, OK, finding.detail)
    advice = ADVICE[finding.fault].format(tier=config.name.upper())
    return Row(part, finding.check, FAILED, finding.detail, advice)


async def _store(settings: Settings) -> list[Row]:
    connection = None
    try:
        connection = Connection(settings.redis_url)
        await connection.check(is_broker=settings.broker_is_store)
        await Durability(connection, settings).check()
        await connection.ping()
        has_room = await connection.has_room()
    except SettingsError as error:
        return [Row("store", "reach", FAILED, str(error), "mend the setting")]
    except StoreUnfit as error:
        return [Row("store", "reach", FAILED, str(error), "set the server up so, or take another")]
    except StoreUnavailable as error:
        return [_away("store", settings.redis_url, "REDIS_URL", error)]
    finally:
        if connection is not None:
            await connection.close()
    rows = [Row("store", "reach", OK, "it answers, and takes what is written")]
    if not has_room:
        detail = "it is nearly full: new jobs, batches and files are refused (429, store_full)"
        rows.append(Row("store", "room", FAILED, detail, MAKE_ROOM))
    return rows


async def _broker(settings: Settings) -> list[Row]:
    try:
        publisher = Publisher(create_app(settings), ())
    except SettingsError as error:
        return [Row("broker", "reach", FAILED, str(error), "mend the setting")]
    publisher.start()
    try:
        await publisher.check()
    except PublishError as error:
        name = "BROKER_URL" if settings.broker_url else "REDIS_URL"
        return [_away("broker", settings.effective_broker_url, name, error)]
    finally:
        await publisher.stop()
    return [Row("broker", "reach", OK, "it answers")]


def _away(part: str, url: str, name: str, error: BaseException) -> Row:
    """Return the row of a server that does not answer; of one that nobody has named, none."""
    if url == Settings().redis_url:
        advice = f"`fallthrough up` brings its own; for yours set FALLTHROUGH_{name}"
        return Row(part, "reach", NONE, f"none is set up: {_reason(error)}", advice)
    return Row(part, "reach", FAILED, _reason(error), f"start it, or mend FALLTHROUGH_{name}")


def _reason(error: BaseException) -> str:
    """Return what the client below said, which names hosts and no passwords; one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}…"


def main() -> int:
    """Check, print, and return the exit status."""
    logging.disable()  # what they would tell stands in the rows
    try:
        rows = asyncio.run(check_all(Settings.from_env(os.environ)))
    except FallthroughError as error:
        sys.stderr.write(f"check: {error}\n")
        return 2
    sys.stdout.write(json.dumps([row._asdict() for row in rows]) + "\n")
    return int(any(row.state == FAILED for row in rows))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a broker's client that hangs is not waited for
