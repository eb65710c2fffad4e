"""`python -m api`, as it starts."""

from __future__ import annotations

import signal

import pytest
import uvicorn

from api import __main__ as api
from tasks.settings import Settings


@pytest.fixture
def handlers():
    """Leave this process's handlers as they are."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    known = {number: signal.getsignal(number) for number in numbers}
    yield numbers
    for number, handler in known.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_the_server_listens_for_it_counts(
    monkeypatch, handlers, tmp_path, number
):
    """It would serve on, until it is killed with whoever asks it then."""
    assert number in handlers
    stops = []

    def run(server, sockets):
        signal.raise_signal(number)
        stops.append(server.should_exit)

    async def prepared(_):
        """Say that the store will do."""

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(api, "prepare_store", prepared)
    monkeypatch.setattr(api.process, "freeze_garbage", lambda: None)
    monkeypatch.setattr(api.process, "give_back_memory", lambda: None)
    settings = Settings(files_url=str(tmp_path), port=0)
    with api._listen(settings) as listener:
        assert api._serve(settings, listener) == api.COULD_NOT_START  # it never served
    assert stops == [True]
