"""The server around the application: one socket, connections that are bounded, an end that leaves nothing running."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from sse_starlette.sse import AppStatus
from uvicorn.protocols.http.h11_impl import H11Protocol

from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.runtime.prefixes import Prefixes
from pocketvlm.serve.answering import Responder
from pocketvlm.serve.app import Api
from pocketvlm.serve.bodies import Bodies
from pocketvlm.serve.errors import RequestError
from pocketvlm.serve.meters import Meters
from pocketvlm.serve.remote import RemoteHost, RemoteImages
from pocketvlm.serve.worker import Queue

if TYPE_CHECKING:
    from pocketvlm.runtime import PocketVlm

#: Seconds in which a request's head has to be there, those in which a client may read why it gets no reply but an
#: error, and most connections at once.
HEAD_S, LINGER_S, CONNECTIONS = 10.0, 1.0, 256
#: What a browser or client of this machine calls it.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served. ``waiting``: requests beside the one that is answered; ``kept``: KV caches; ``remote``:
    hosts whose images are fetched."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    images: Path | None = None
    waiting: int = 8
    kept: int = 2
    body_bytes: int = 32 << 20
    remote: frozenset[RemoteHost] = frozenset()

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine is served."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def serve(vlm: PocketVlm, options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. ``say`` gets the base URL of the API, when it can be asked.

    :raises PocketVlmError: the address cannot be listened on, or others than this machine would be served without a key
    """
    if not options.loopback and options.key is None:
        raise PocketVlmError(f"{options.host} is not of this machine alone: give a key, --api-key or POCKETVLM_API_KEY")
    # Its way of ending streams cuts them off; here they end by themselves, when the queue is stopped.
    AppStatus.enable_automatic_graceful_drain = False
    meters = Meters()
    with listening(options.host, options.port) as listener, Prefixes(vlm, options.kept) as prefixes:
        queue = Queue(Responder(vlm, prefixes, meters, options.images), options.waiting)
        meters.about(vlm, queue)
        hosts = LOOPBACK_NAMES | {options.host} if options.loopback else None
        remote = RemoteImages(options.remote) if options.remote else None
        api = Api(vlm, queue, meters, Bodies(options.body_bytes), options.key, hosts, remote)
        config = uvicorn.Config(
            api.application(),
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        server = EndingServer(config, queue)
        host, port = listener.getsockname()[:2]
        say(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn's last act is to raise the signal anew that ended it
            pass
        finally:
            queue.stop()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens: a client may connect from now on.

    :raises PocketVlmError: the address is taken or not this machine's
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        why = one_line(str(error.strerror or error).partition(" (while")[0], 80)  # the address stands before it
        raise PocketVlmError(f"{host}:{port} cannot be listened on ({why}): --port 0 takes a free one") from error


class EndingServer(uvicorn.Server):
    """Ends the running answer first: what waits for it, a stream or a reply, then ends in order."""

    def __init__(self, config: uvicorn.Config, queue: Queue) -> None:
        super().__init__(config)
        self._queue = queue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, behind the answers' end."""
        await asyncio.to_thread(self._queue.stop)
        await super().shutdown(sockets)


class BoundedConnection(H11Protocol):
    """Closes a connection on which no whole head of a request comes in ``HEAD_S``, however slowly it trickles, and at
    once one that is more than ``CONNECTIONS``.

    uvicorn bounds what lies between two requests, and only until the next byte.
    """

    _head: asyncio.TimerHandle | None = None
    _over = False

    def connection_made(self, transport: Any) -> None:
        # asyncio does so for sockets that say their protocol, which accepted ones do not: else a reply's second part,
        # and each token, waits until the client acknowledges what was before, 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) > CONNECTIONS:
            what = f"{CONNECTIONS} connections are open already: try again"
            self._reply(RequestError(503, what, code="too_many_connections", headers={"retry-after": str(int(HEAD_S))}))

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        super().data_received(data)
        if self._answering():
            self._stop_waiting()
        elif self._head is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an error in the same form as all others."""
        self._reply(RequestError(400, msg, code="invalid_http"))

    def _reply(self, error: RequestError) -> None:
        """Where there is no request that the application could reply to; the last that is sent."""
        body = json.dumps(error.as_dict()).encode()
        fields = {
            **error.headers,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        first = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"
        head = "".join(f"{line}\r\n" for line in (first, *(f"{name}: {value}" for name, value in fields.items()), ""))
        self.transport.write(head.encode() + body)
        # Closed at once, with something of the client's unread, it would be reset, and the reply lost on the way.
        self._over = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(HEAD_S, self._close_if_none)

    def _close_if_none(self) -> None:
        self._head = None
        if not self._answering():
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
