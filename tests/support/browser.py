"""A headless Chromium and one page of it, spoken to over a pipe in the browser's own protocol (DevTools).

Messages are JSON with a zero byte behind each; Chromium reads them from descriptor 3 and writes them to 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
#: The page of a test and nothing else: what the browser would fetch on its own account is switched off.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe",
)  # fmt: skip
#: A shared machine may stall.
SECONDS = 90

#: Each element that reaches over an edge of the window, with how far it goes.
OVER_THE_EDGE = """[...document.body.querySelectorAll('*')]
    .map(one => [one.tagName, one.className.baseVal ?? one.className, one.getBoundingClientRect()])
    .filter(([tag, kind, box]) => box.width > 0)
    .filter(([tag, kind, box]) => box.left < -0.5 || box.right > document.documentElement.clientWidth + 0.5)
    .map(([tag, kind, box]) => `${tag}.${kind} ${box.left} ${box.right}`)"""
#: Each element whose content is wider than it is itself.
OVERFULL = """[...document.body.querySelectorAll('*')]
    .filter(one => !one.closest('svg') && one.clientWidth && one.scrollWidth > one.clientWidth + 1)
    .map(one => `${one.tagName}.${one.className} ${one.innerText.slice(0, 40)}`)"""


def colors_of(words: str) -> str:
    """An expression: of the elements that a selector finds, the colours of their words and of what is behind them."""
    return f"""[...document.querySelectorAll('{words}')].map(one => {{
    const style = getComputedStyle(one);
    let behind = one;
    while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    return [one.namespaceURI.endsWith('svg') ? style.fill : style.color, getComputedStyle(behind).backgroundColor];
}})"""


@dataclass
class Page:
    """A page, and what the browser told about it since it was opened."""

    to_browser: int
    from_browser: int
    session: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    _unread: bytes = b""
    _number: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda said: said.get("id") == self._number)
        assert "error" not in answer, answer
        return answer["result"]

    def show(self, place: Path | str, width: int, height: int = 844, *, dark: bool = False) -> None:
        """Load a file, or what is at a URL, into a window of so many CSS pixels, a phone's where it is narrow."""
        phone = width < 600
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=place if isinstance(place, str) else place.as_uri())
        loaded = "Page.loadEventFired"
        if not any(event["method"] == loaded for event in self.events):
            self._until(lambda said: said.get("method") == loaded)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key of the keyboard, by its name and Windows' number of it; ``text`` is what it writes."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def told(self, method: str) -> list[dict[str, Any]]:
        """What the browser told by one kind of event."""
        return [event["params"] for event in self.events if event["method"] == method]

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._unread:
                ready, _, _ = select.select([self.from_browser], [], [], max(0.0, deadline - time.monotonic()))
                assert ready, f"the browser said nothing for {SECONDS} seconds"
                said = os.read(self.from_browser, 1 << 16)
                assert said, "the browser ended"
                self._unread += said
            text, _, self._unread = self._unread.partition(b"\0")
            message: dict[str, Any] = json.loads(text)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """Start Chromium with ``profile``, an empty directory, for its files, and open a page."""
    browser_reads, to_browser = os.pipe()
    from_browser, browser_writes = os.pipe()
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"]
    # bash, since other shells take no descriptor above 9.
    redirect = ["bash", "-c", f'exec "$0" "$@" 3<&{browser_reads} 4>&{browser_writes}', *command]
    with (profile / "browser.log").open("wb") as log:
        browser = subprocess.Popen(redirect, pass_fds=(browser_reads, browser_writes), stdout=log, stderr=log)
    os.close(browser_reads)
    os.close(browser_writes)
    page = Page(to_browser, from_browser)
    try:
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{room}.enable")
        yield page
    finally:
        # It goes when nobody speaks to it any more.
        os.close(to_browser)
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
        os.close(from_browser)


def complaints(page: Page) -> list[Any]:
    """What stands in the browser's console."""
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    return [event for kind in kinds for event in page.told(kind)]


def requests(page: Page) -> list[str]:
    """What the page asked for, from wherever."""
    return [event["request"]["url"] for event in page.told("Network.requestWillBeSent")]


def contrast(one: str, other: str) -> float:
    """Of two colours, WCAG 2.2."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, WCAG 2.2."""
    red, green, blue = (int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(","))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def browser_or_skip() -> None:
    """Where there is no Chromium: a failure in CI, elsewhere a test less."""
    if not CHROMIUM.exists():
        missing = f"there is no {CHROMIUM}: make browser installs it (as root, with apt-get)"
        if "CI" in os.environ:
            pytest.fail(missing)
        pytest.skip(missing)
