"""By which signals a worker stops, and how."""

from __future__ import annotations

import signal

import pytest
from celery import signals

from tasks.app import create_app
from tasks.settings import Settings
from workers.stops import HURRIES, STOPS, worker_class


@pytest.fixture
def told(monkeypatch):
    """Leave this process's handlers as they are; return what a worker's tell."""
    kept = [getattr(signal, name) for name in (*STOPS, "SIGUSR1")]
    known = {number: signal.getsignal(number) for number in kept}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs this may have used nohup
    monkeypatch.setattr("celery.worker.state.should_stop", None)
    told = []

    def note(sig, how, **_):
        told.append((sig, how))

    signals.worker_shutting_down.connect(note)
    yield told
    signals.worker_shutting_down.disconnect(note)
    for number, handler in known.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", STOPS)
def test_each_asks_for_the_same_and_is_no_failure(told, name):
    from celery.worker import state  # noqa: PLC0415 - as the fixture left it

    worker = object.__new__(worker_class(create_app(Settings())))
    worker.hostname = "worker@here"
    worker.install_platform_tweaks(worker)
    for _ in range(2):
        signal.raise_signal(getattr(signal, name))
    assert told == [(name, "Warm")] * 2
    assert state.should_stop == 0


@pytest.mark.usefixtures("told")
def test_who_used_nohup_stays():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    worker = object.__new__(worker_class(create_app(Settings())))
    worker.install_platform_tweaks(worker)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_sigterm_and_a_closed_terminal_hurry_nobody():
    assert set(STOPS) - set(HURRIES) == {"SIGTERM", "SIGHUP"}
