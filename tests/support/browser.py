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

CHROMIUM = Path("/usr/bin/chromium")
#: The page of a test and nothing else: what the browser would fetch on its own account is switched off.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe",
)  # fmt: skip
#: A shared machine may stall.
SECONDS = 90


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

    def show(self, path: Path, width: int, height: int = 844, *, dark: bool = False) -> None:
        """Load a file into a window of so many CSS pixels, a phone's where it is narrow."""
        phone = width < 600
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        loaded = "Page.loadEventFired"
        if not any(event["method"] == loaded for event in self.events):
            self._until(lambda said: said.get("method") == loaded)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

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
