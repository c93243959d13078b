"""The paths of the API as a Starlette application, and who may ask."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pocketvlm.errors import one_line
from pocketvlm.serve.bodies import Bodies
from pocketvlm.serve.errors import RequestError
from pocketvlm.serve.forms import (
    ChatCompletion,
    ChatCompletionChunk,
    ErrorReply,
    ModelEntry,
    ModelList,
    PictureTiling,
    ServerHealth,
)
from pocketvlm.serve.openapi import JSON, Operation, document
from pocketvlm.serve.page import page
from pocketvlm.serve.pictures import remote_urls
from pocketvlm.serve.preview import TilingQuery, tiling_of
from pocketvlm.serve.replies import Reply, model_entry
from pocketvlm.serve.schema import ChatRequest, read_request
from pocketvlm.serve.worker import Began, Ended, Queue, Said, Ticket

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from pocketvlm.runtime import PocketVlm
    from pocketvlm.serve.meters import Meters
    from pocketvlm.serve.remote import RemoteImages

T = TypeVar("T")

#: Seconds between two comments in a stream that has nothing to say yet, and those that a reader may take for one part.
PING_S, SEND_S = 15, 60


@dataclass(frozen=True)
class Api:
    """What the paths are answered with. ``hosts``: names that may stand in a request's Host header; None: any.
    ``remote``: fetches images; None: nothing is fetched."""

    vlm: PocketVlm
    queue: Queue
    meters: Meters
    bodies: Bodies
    key: str | None = None
    hosts: frozenset[str] | None = None
    remote: RemoteImages | None = None
    since: int = field(default_factory=lambda: int(time.time()))

    def application(self) -> ASGIApp:
        """For an ASGI server."""
        operations = self.operations()
        routes = [Route(one.path, one.answer, methods=[one.method]) for one in operations]
        handlers = {RequestError: _refused, HTTPException: _refused, ClientDisconnect: _hung_up_on, Exception: _failed}
        return Door(Starlette(routes=routes, exception_handlers=handlers), self, operations)

    def operations(self) -> list[Operation]:
        """All that can be asked."""
        return [
            Operation("/", self._page, "A page for a browser", {"text/html": None}, open_=True),
            Operation("/health", self._health, "Whether the server answers", {JSON: ServerHealth}, open_=True),
            Operation(
                "/v1/chat/completions",
                self._chat,
                "An answer to messages, whole or streamed",
                {JSON: ChatCompletion},
                method="POST",
                takes=ChatRequest,
                events=ChatCompletionChunk,
            ),
            Operation("/v1/models", self._models, "The one model", {JSON: ModelList}),
            Operation("/v1/models/{name}", self._models, "The same by its name", {JSON: ModelEntry}),
            Operation("/tiling", self._tiling, "How a picture is cut", {JSON: PictureTiling}, query=TilingQuery),
            Operation("/metrics", self._metrics, "What was done so far, in Prometheus' form"),
            Operation("/openapi.json", self._document, "This document", {JSON: dict[str, Any]}),
        ]

    @property
    def model(self) -> str:
        """The one model's name."""
        return self.vlm.manifest.model.name

    async def _page(self, request: Request) -> Response:
        text, headers = page()
        return HTMLResponse(text, headers=headers)

    async def _tiling(self, request: Request) -> Response:
        vision = self.vlm.manifest.vision
        if vision is None:
            raise RequestError(404, f"{self.model} takes text only, no images", code="no_images")
        return JSONResponse(tiling_of(request.query_params.multi_items(), vision))

    async def _document(self, request: Request) -> Response:
        made = document(self.operations(), f"pocketvlm serve: {self.model}", locked=self.key is not None)
        made["components"]["schemas"][ChatRequest.__name__]["properties"]["model"] = {"enum": [self.model, None]}
        return JSONResponse(made)

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": self.model})

    async def _metrics(self, request: Request) -> Response:
        content, kind = self.meters.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": kind})

    async def _models(self, request: Request) -> Response:
        name = request.path_params.get("name")
        if name not in (None, self.model):
            raise _no_model(name, self.model)
        entry = model_entry(self.vlm.manifest, self.since)
        return JSONResponse(entry if name else {"object": "list", "data": [entry]})

    async def _chat(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which a page of another site cannot send without asking
            raise RequestError(
                415, "the body must be JSON, with Content-Type: application/json", code="unsupported_type"
            )
        with contextlib.ExitStack() as held:
            room = held.enter_context(self.bodies.holding())
            body = await room.read(request)
            asked = await asyncio.to_thread(read_request, body)
            del body
            if asked.model not in (None, self.model):
                raise _no_model(asked.model, self.model)
            fetched = {}
            if self.remote is not None and (urls := list(remote_urls(asked))):
                self.queue.check_room()
                fetched = await _unless_hung_up(self.remote.fetch(urls, room.take), request)
            ticket = Ticket(asked, asyncio.get_running_loop(), fetched)
            self.queue.put(ticket)
            held.callback(self.queue.leave, ticket)
            first = await _unless_hung_up(ticket.listen(), request)
            if isinstance(first, RequestError):
                raise first
            assert isinstance(first, Began)
            reply = Reply(self.model, first.seed, bool(asked.logprobs))
            if not asked.stream:
                return await _unless_hung_up(_whole(ticket, reply), request)
            return EventStream(_events(ticket, asked, reply), held.pop_all())


async def _whole(ticket: Ticket, reply: Reply) -> Response:
    said = []
    while isinstance(event := await ticket.listen(), Said):
        said.append(event)
    if isinstance(event, RequestError):
        raise event
    assert isinstance(event, Ended)
    return JSONResponse(reply.whole(said, event))


class EventStream(EventSourceResponse):
    """A stream that lets go of what is ``held`` when it ends, however it ends: Starlette sends it when the function
    that made it has long returned."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], held: contextlib.ExitStack) -> None:
        super().__init__(events, sep="\n", ping=PING_S, send_timeout=SEND_S)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


async def _events(ticket: Ticket, asked: ChatRequest, reply: Reply) -> AsyncIterator[ServerSentEvent]:
    """An answer's chunks, as OpenAI streams them."""
    yield _event(reply.first())
    while isinstance(event := await ticket.listen(), Said):
        yield _event(reply.piece(event))
    if isinstance(event, RequestError):  # the status is sent already
        yield _event(event.as_dict())
        return
    assert isinstance(event, Ended)
    if event.calls:
        yield _event(reply.called(event))
    yield _event(reply.last(event))
    if asked.wants_usage:
        yield _event(reply.used(event.stats))
    yield ServerSentEvent("[DONE]", sep="\n")


def _event(data: ChatCompletionChunk | ErrorReply) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, ensure_ascii=False), sep="\n")


async def _unless_hung_up(wanted: Awaitable[T], request: Request) -> T:
    """What is waited for.

    :raises ClientDisconnect: the client hung up before
    """
    waiting = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        for task in (waiting, gone):
            task.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _no_model(name: str | None, ours: str) -> RequestError:
    what = f"there is no model {one_line(name, 80)!r} here: it is {ours!r}"
    return RequestError(404, what, "model", "model_not_found")


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        what = f"{request.method} {one_line(request.url.path, 80)}: {error.detail}"
        error = RequestError(error.status_code, what, headers=error.headers or {})
    assert isinstance(error, RequestError)
    return JSONResponse(error.as_dict(), error.status, dict(error.headers))


async def _hung_up_on(request: Request, error: Exception) -> Response:
    """For the count alone: nobody is there any more. 499 is nginx's status for that."""
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    """Starlette hands the error on, for the server's log, when this is sent."""
    return JSONResponse(RequestError(500, "the server failed: see its log", code="failed").as_dict(), 500)


class Door:
    """Before all paths: the Host header and the key, and behind them the count of what was replied."""

    def __init__(self, app: ASGIApp, api: Api, operations: Sequence[Operation]) -> None:
        self._app, self._api = app, api
        self._paths = {one.path for one in operations}
        self._open = {one.path for one in operations if one.open_}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._api.meters.replied(path, message["status"])
            await send(message)

        request = Request(scope, receive)
        app: ASGIApp = self._app
        if (refusal := self._refusal(request)) is not None:
            app = JSONResponse(refusal.as_dict(), refusal.status, dict(refusal.headers))
        await app(scope, receive, counted)

    def _refusal(self, request: Request) -> RequestError | None:
        hosts, key = self._api.hosts, self._api.key
        # A page of the web whose name was made to lead to this machine asks with its own name.
        host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        if hosts is not None and host.strip("[]").lower() not in hosts:
            return RequestError(
                403, f"this server is for this machine alone, not for {one_line(host, 60)!r}", code="host"
            )
        if key is None or request.url.path in self._open:
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode()):
            return None
        what = "this server needs its key: Authorization: Bearer KEY"
        return RequestError(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
