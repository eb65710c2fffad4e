"""Debian's Chromium, driven by its chromedriver; `./run test services` installs both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from harness.waiting import wait_until

if TYPE_CHECKING:
    from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # loopback, nothing else
)


class BrowserMissingError(Exception):
    """A program of the browser is not installed; the message says which."""


def start(profile: Path, *switches: str) -> Chrome:
    """Start a browser without a window, whose profile is a folder of its own."""
    for program in (CHROMIUM, DRIVER):
        if not program.exists():
            message = f"{program} is missing: `./run test services` installs it"
            raise BrowserMissingError(message)
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for switch in (*SWITCHES, f"--user-data-dir={profile}", *switches):
        options.add_argument(switch)
    return Chrome(options, Service(str(DRIVER)))


@dataclass
class Page:
    """A page in a browser."""

    driver: Chrome

    def open(self, url: str) -> Page:
        self.driver.get(url)
        return self

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        """Return those that can be seen, at one moment: some may be gone in the next."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter((each) => each.checkVisibility({ visibilityProperty: true }))"
        )
        return list(self.driver.execute_script(script, css))

    def text(self, css: str) -> str:
        """Return what can be seen of it, read at one moment; empty when it is not there."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(script, css))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def tell(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def wait(self, css: str, text: str, seconds: float = 20) -> None:
        wait_until(lambda: text in self.text(css), seconds, f"{css} says {text!r}")

    def complaints(self) -> list[dict[str, Any]]:
        """Return what the console got since the last time."""
        return [e for e in self.driver.get_log("browser") if e["level"] in {"SEVERE", "WARNING"}]
