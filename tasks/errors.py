"""What can go wrong on the way of a job.

FallthroughError
├── SettingsError        a setting makes no sense; the message names it
├── StoreUnavailable     the job store did not answer in time
│   └── StoreFull        it is too full to take new jobs
├── TooManyQueued        as much as may be is unfinished already
├── TooManyFiles         as many files, or bytes of them, as may be are kept already
├── StoreUnfit           the store answers, but is not set up to keep jobs
├── PublishError         the broker did not take a message in time
├── StreamLost           a log does not have any more what was written to it
├── NoSuchCursor         a list is to go on after what is not in it
└── KeyReused            an Idempotency-Key came with something else than the first time
"""


class FallthroughError(Exception):
    """Base of all errors that this package raises."""


class SettingsError(FallthroughError):
    """A setting makes no sense; the message is one line that names it."""


class StoreUnavailable(FallthroughError):  # noqa: N818 - reads as the state that it reports
    """The job store (Redis or Valkey) did not answer in time."""


class StoreFull(StoreUnavailable):
    """The store is too full to take new jobs; the accepted ones go on."""


class TooManyQueued(FallthroughError):  # noqa: N818 - as above
    """As many jobs, or batches, as may be are unfinished already; the message says whose."""


class TooManyFiles(FallthroughError):  # noqa: N818 - as above
    """As many files, or bytes of them, as may be are kept already; the message says whose."""


class NoSuchInput(FallthroughError):  # noqa: N818 - as above
    """A batch is to read a file that its owner does not have, or has no more."""


class NoSuchCursor(FallthroughError):  # noqa: N818 - as above
    """A list is to go on after an id that is not in it, and was not lately."""


class StoreUnfit(FallthroughError):  # noqa: N818 - as above
    """The store answers, but is not fit to keep jobs: its version, policy, mode or layout."""


class StreamLost(FallthroughError):  # noqa: N818 - as above
    """The store does not have any more what was written to the log of a stream."""


class PublishError(FallthroughError):
    """The broker did not take a message in time."""


class KeyReused(FallthroughError):  # noqa: N818 - as above
    """An Idempotency-Key came with something else than the first time."""
