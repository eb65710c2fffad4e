"""The store's client: what its URL cannot be."""

from __future__ import annotations

import pytest

from tasks.errors import SettingsError
from tasks.store.connection import connect


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@box/0?nothing=hunter2",
        "redis://:hunter2@box/0?socket_timeout=hunter2",
        "redis://:hunter2@box/?db=hunter2",
        "rediss://:hunter2@box/0?ssl_cert_reqs=hunter2",
    ],
)
def test_an_option_that_makes_no_sense_is_told_in_one_line(url):
    with pytest.raises(SettingsError, match=r"^FALLTHROUGH_REDIS_URL: one of its options") as error:
        connect(url)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["redis://:pw@box:1/2?health_check_interval=1", "rediss://box", "unix:///run/x.sock?db=1"],
)
async def test_an_option_that_the_client_knows_is_taken(url):
    await connect(url).aclose()
