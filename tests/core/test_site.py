"""The pages of docs/ as ``make docs`` builds them: nothing is fetched from elsewhere, every link leads somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

#: element -> the attribute by which a page makes a browser fetch something
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page fetches, what it links to, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if (url := values.get(FETCHED.get(tag, ""))) is not None:
            self.fetched.append(url)
        if tag == "a" and (url := values.get("href")) is not None:
            self.links.append(url)
        if anchor := values.get("id"):
            self.anchors.add(anchor)


@pytest.fixture(scope="module")
def pages(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    site = tmp_path_factory.mktemp("site")
    # not --quiet: with it MkDocs counts no warnings, and nothing is strict
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}


def test_no_page_fetches_anything_from_another_host(pages: dict[Path, Page]) -> None:
    assert len(pages) > 20
    assert not [(path, url) for path, page in pages.items() for url in page.fetched if urlsplit(url).netloc]


def test_every_link_leads_somewhere(pages: dict[Path, Page]) -> None:
    lost = []
    for path, page in pages.items():
        for url in (*page.fetched, *page.links):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            fragment = unquote(parts.fragment)
            if not target.is_file() or (fragment and target in pages and fragment not in pages[target].anchors):
                lost.append((path.name, url))
    assert not lost


def test_the_api_page_has_the_doors(pages: dict[Path, Page]) -> None:
    (api,) = (page for path, page in pages.items() if path.name == "api.html")
    doors = {"export.export_bundle", "runtime.load", "runtime.PocketVlm", "runtime.Chat", "runtime.GenerationConfig"}
    assert {f"pocketvlm.{door}" for door in doors} <= api.anchors
