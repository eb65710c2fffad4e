"""What the routes work with: opened once, when the server starts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from api.access import ANYBODY, RequestLimits
from api.callers import Callers
from api.errors import not_found
from api.in_flight import Room
from api.readiness import Readiness
from api.sampler import keep_history
from api.tiers import batch_tiers, names_of
from api.waiters import Waiters
from tasks.app import create_app
from tasks.background import Background
from tasks.broker.publisher import Publisher
from tasks.storage import Storage
from tasks.store import open_store
from tasks.submit import Submitter
from tasks.tiers.build import build_breakers, build_models, tier_configs
from tasks.tiers.changes import follow_breakers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from api.metrics import ApiMetrics
    from circuit_breaker import CircuitBreaker
    from fallback_chain import Tier
    from tasks.keys import Key
    from tasks.records.policies import TierNames
    from tasks.settings import Settings
    from tasks.store import Store

DECODED_BYTES = 4 * 1024 * 1024  # a body that is larger is decoded alone
ID = r"[a-z]+[-_][0-9a-f]+(-output|-error)?"


@dataclass(slots=True)
class Services:
    """The parts of one API process."""

    settings: Settings
    store: Store
    publisher: Publisher
    submitter: Submitter
    waiters: Waiters
    callers: Callers
    request_limits: RequestLimits
    bodies: Room  # in memory, and pages of results
    decoded: Room  # of those, what is read and not recorded yet
    uploads: Room  # in the temporary folder
    breakers: dict[str, CircuitBreaker]
    tiers: dict[str, Tier]
    metrics: ApiMetrics
    readiness: Readiness
    validations: asyncio.Lock  # of files, before a batch is made of them
    tier_names: TierNames  # that a caller may name
    batch_tiers: TierNames  # that may answer a batch which does not say
    draining: bool = False

    @property
    def largest_body(self) -> int:
        """Bytes of a request's body: as the settings say, and as the store takes."""
        return min(self.settings.max_body_bytes, self.store.connection.largest_content)


@contextlib.asynccontextmanager
async def open_services(settings: Settings, metrics: ApiMetrics) -> AsyncIterator[Services]:
    """Open everything; raises StoreUnfit or StoreUnavailable when the store will not do."""
    storage = await asyncio.to_thread(Storage, settings.files_url)
    store = await open_store(settings, storage)
    queues = store.connection if settings.queues_lie_in_store else None
    publisher = Publisher(create_app(settings), tier_configs(settings), metrics, queues)
    publisher.start()
    breakers = build_breakers(settings, store.connection, lambda _: None)
    tiers, http = build_models(settings, store.connection, breakers)
    waiters, callers = Waiters(store), Callers(store)
    request_limits = RequestLimits(store.limits)
    most, most_uploads = settings.max_bytes_in_flight, settings.max_upload_bytes
    background = Background(metrics.loop_died)
    background.start("finishes", waiters.listen)
    background.start("request limits", request_limits.keep)
    background.start("messages", publisher.keep)
    background.start("history", partial(keep_history, store, breakers))
    background.start("breakers", partial(follow_breakers, store.connection, breakers))
    submitter = Submitter(store, publisher)
    try:
        yield Services(
            settings=settings,
            store=store,
            publisher=publisher,
            submitter=submitter,
            waiters=waiters,
            callers=callers,
            request_limits=request_limits,
            bodies=Room(most, most // 2),
            decoded=Room(DECODED_BYTES, DECODED_BYTES),
            uploads=Room(most_uploads, most_uploads // 2),
            breakers=breakers,
            tiers=tiers,
            metrics=metrics,
            validations=asyncio.Lock(),
            tier_names=names_of(settings),
            batch_tiers=batch_tiers(settings),
            readiness=Readiness(store=store.connection.ping, broker=publisher.check),
        )
    finally:
        await background.stop()
        await callers.stop()
        await publisher.stop()  # what a broker that hangs was not given is taken back meanwhile
        await submitter.stop()
        await http.aclose()
        await store.close()


def services_of(request: Request) -> Services:
    """Return the parts that this request's server opened."""
    services: Services = request.app.state.services
    return services


def headers_of(request: Request) -> dict[str, str]:
    """Return a request's headers by their names in lower case; of several the first."""
    # dict() of Starlette's own looks through all of them for each.
    return dict(reversed(request.headers.items()))


def owner_of(request: Request) -> str:
    """Return the name space that a request may see."""
    key: Key = request.scope["state"]["key"]
    return key.owner


def caller_of(request: Request) -> str:
    """Return who asks, for the log: a key's owner, or "anonymous" where there are no keys."""
    key: Key = request.scope["state"]["key"]
    return "anonymous" if key is ANYBODY else key.owner


def is_id(text: str) -> bool:
    """Whether a text could be an id that we gave out; a store's key is made of nothing else."""
    return re.fullmatch(ID, text) is not None


def id_of(request: Request, what: str) -> str:
    """Return the id in a request's path; a 404 if it can be none."""
    name: str = request.path_params["id"]
    if not is_id(name):
        raise not_found(what, name)
    return name
