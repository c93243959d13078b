"""A server on 127.0.0.1 in the shape of Hugging Face's hub: models by commit, gated ones, ranges, a line that drops."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: Files of so many bytes lie elsewhere, where a redirect leads, and are known by their SHA-256.
LARGE = 100_000


@dataclass
class Hub:
    """``models``: directories by org/name; ``gated``: those that nobody may read; ``cut``: files whose first
    transfer stops half-way; ``lost``: listed ones that are not there. ``asked``: each request as "METHOD path range".
    """

    models: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        paths = (line.split()[1] for line in self.asked if line.startswith("GET"))
        return {path.rpartition("/")[2] for path in paths if "/resolve/" in path or path.startswith("/blobs/")}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that runs inside the block."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            name, kind, revision = found.groups()
            return self._about(name, kind, revision or "main")
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision, file = found.groups()
            return self._resolve(name, revision, file)
        if found := re.fullmatch(r"/blobs/([^/]+/[^/]+)/(.+)", path):
            return self._content(self.served.models[found[1]] / found[2])
        return self._error(404, "")

    def _about(self, name: str, kind: str | None, revision: str) -> None:
        if name not in self.served.models:
            return self._error(404, "RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self._error(404, "RevisionNotFound")
        if kind == "tree" and name in self.served.gated:
            return self._error(403, "GatedRepo")
        root = self.served.models[name]
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        if kind == "tree":
            listed: Any = [
                {"type": "file", "path": str(file.relative_to(root)), "oid": _etag(file), "size": file.stat().st_size}
                for file in files
            ]
        else:
            names = [{"rfilename": str(file.relative_to(root)), "size": file.stat().st_size} for file in files]
            listed = {"_id": "0", "id": name, "modelId": name, "sha": COMMIT, "siblings": names}
            listed |= {"private": False, "tags": [], "downloads": 0, "likes": 0, "gated": name in self.served.gated}
        return self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if name not in self.served.models:
            return self._error(404, "RepoNotFound")
        if name in self.served.gated:
            return self._error(403, "GatedRepo")
        path = self.served.models[name] / file
        if revision not in ("main", "v1", COMMIT) or not path.is_file() or file in self.served.lost:
            return self._error(404, "EntryNotFound")
        known = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(path)}"'}
        if path.stat().st_size < LARGE:
            return self._content(path, known)
        # by another name: a hub's files lie on another host, whose answers say nothing of commits
        elsewhere = self.served.url.replace("127.0.0.1", "localhost")
        linked = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": f'"{_etag(path)}"'}
        return self._send(302, b"", {**known, **linked, "Location": f"{elsewhere}/blobs/{name}/{file}"})

    def _content(self, path: Path, headers: dict[str, str] | None = None) -> None:
        content, first, status = path.read_bytes(), 0, 200
        more = {"Accept-Ranges": "bytes", **(headers or {})}
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first, status = int(wanted[1]), 206
            more["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and path.name in self.served.cut:
            self.served.cut.discard(path.name)
            self._send(status, content[first : len(content) // 2], more, length=len(content) - first)
            self.close_connection = True
            return None
        return self._send(status, content[first:], more)

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code} if code else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else hashlib.sha1(content).hexdigest()
