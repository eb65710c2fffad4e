"""Fixtures of the tests that need Debian's own programs; `./run test services` installs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness import browser
from harness.browser import Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Chrome]:
    driver = browser.start(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium) -> Iterator[Page]:
    """A page of 1200 x 800 that nothing was opened in."""
    page = Page(chromium)
    size = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.tell("Emulation.setDeviceMetricsOverride", **size)
    page.complaints()
    yield page
    page.tell("Emulation.setEmulatedMedia", media="", features=[])
    page.open("about:blank")
