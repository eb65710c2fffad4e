"""What the routes work with: opened once, when the server starts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.access import Running
from api.errors import not_found
from api.waiters import Waiters
from tasks.app import create_app
from tasks.broker.publisher import Publisher
from tasks.storage import Storage
from tasks.store.batches import BatchStore
from tasks.store.connection import connect
from tasks.store.files import FileStore
from tasks.store.jobs import JobStore
from tasks.submit import Submitter
from tasks.tiers.build import build_breakers, build_tiers, tier_configs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from api.metrics import ApiMetrics
    from circuit_breaker import CircuitBreaker
    from fallback_chain import ChatTier
    from tasks.keys import Key
    from tasks.settings import Settings

_ID = re.compile(r"[a-z]+[-_][0-9a-f]+(-output|-error)?")


@dataclass(slots=True)
class Services:
    """The parts of one API process."""

    settings: Settings
    store: JobStore
    publisher: Publisher
    submitter: Submitter
    batches: BatchStore
    files: FileStore
    waiters: Waiters
    running: Running
    breakers: dict[str, CircuitBreaker]
    tiers: dict[str, ChatTier]
    metrics: ApiMetrics
    draining: bool = False


@contextlib.asynccontextmanager
async def open_services(settings: Settings, metrics: ApiMetrics) -> AsyncIterator[Services]:
    """Open everything; raises StoreUnfit or StoreUnavailable when the store will not do."""
    store = JobStore(connect(settings.redis_url), settings)
    await store.check()
    storage = await asyncio.to_thread(Storage, settings.files_url)
    publisher = Publisher(create_app(settings), tier_configs(settings), metrics)
    publisher.start()
    breakers = build_breakers(settings, store, lambda _: None)
    tiers, http = build_tiers(settings, breakers)
    waiters, running = Waiters(store), Running(store)
    waiters.start()
    running.start()
    try:
        submitter = Submitter(store, publisher)
        batches, files = BatchStore(store, settings), FileStore(store, storage)
        yield Services(
            *(settings, store, publisher, submitter, batches, files),
            *(waiters, running, breakers, tiers, metrics),
        )
    finally:
        await waiters.stop()
        await running.stop()
        publisher.stop()
        await http.aclose()
        await store.close()


def services_of(request: Request) -> Services:
    """Return the parts that this request's server opened."""
    services: Services = request.app.state.services
    return services


def owner_of(request: Request) -> str:
    """Return the name space that a request may see."""
    key: Key = request.scope["state"]["key"]
    return key.owner


def is_id(text: str) -> bool:
    """Whether a text could be an id that we gave out; a store's key is made of nothing else."""
    return _ID.fullmatch(text) is not None


def id_of(request: Request, what: str) -> str:
    """Return the id in a request's path; a 404 if it can be none."""
    name: str = request.path_params["id"]
    if not is_id(name):
        raise not_found(what, name)
    return name
