"""What a server meets that is no good client is refused in OpenAI's form, or ended, and the next one is served."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketvlm.serve.errors import RequestError
from pocketvlm.serve.pictures import picture_bytes
from tests.serve.conftest import SLOW, Served, Start, rest
from tests.support.waiting import until, until_equal

#: Impatient where the real server gives a slow client some seconds.
IMPATIENT = """
import pocketvlm.serve.bodies as bodies, pocketvlm.serve.server as server
server.HEAD_S, bodies.PAUSE_S, server.CONNECTIONS = 0.5, 0.5, 60
"""
#: Never stops by itself: the tiny model's stop token is 256.
ENDLESS: dict[str, Any] = {"temperature": 3, "seed": 1, "logit_bias": {"256": -100}}
MESSAGES = [{"role": "user", "content": "hi"}]


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A request to /v1/chat/completions as bytes."""
    fields = [
        "POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Connection: close",
        f"Content-Length: {len(body) if length is None else length}", *(headers or ("Content-Type: application/json",)),
    ]  # fmt: skip
    return "\r\n".join([*fields, "", ""]).encode() + body


def asked(**parameters: Any) -> bytes:
    return post(json.dumps({"messages": MESSAGES, **parameters}).encode())


def split(reply: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of a reply."""
    head, _, body = reply.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), fields, json.loads(body)


def refused(reply: bytes) -> tuple[int, str]:
    """Status and message of an error in OpenAI's form."""
    status, headers, body = split(reply)
    assert headers["content-type"] == "application/json"
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    message = body["error"]["message"]
    assert status >= 400 and message and "\n" not in message
    return status, message


def fine(served: Served) -> bool:
    """Whether a question is answered."""
    status, _, body = split(served.raw(asked(max_tokens=2)))
    return status == 200 and body["usage"]["completion_tokens"] == 2


# --- Who hangs up, and who comes when there is no room ----------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_ends_the_answer_and_the_next_one_is_served(slow: Served, stream: bool) -> None:
    before = slow.metric("answers_total", reason="cancelled")
    for _ in range(100):
        with closing(slow.connect()) as connection:
            connection.sendall(asked(stream=stream, **ENDLESS))
            if stream:
                assert connection.recv(12) == b"HTTP/1.1 200"
            else:
                until_equal(lambda: slow.metric("requests_running"), 1)
        slow.until_busy(0)
    assert slow.metric("answers_total", reason="cancelled") == before + 100
    assert fine(slow)


def test_without_its_bound_an_answer_that_nobody_reads_goes_on(start: Start, bundle: Path) -> None:
    """So that the test above is known to see the difference."""
    served = start(bundle, before=f"{SLOW}import pocketvlm.serve.worker as w; w.Ticket.give_up = lambda self: None\n")
    with closing(served.connect()) as connection:
        connection.sendall(asked(stream=True, **ENDLESS))
        assert connection.recv(12) == b"HTTP/1.1 200"
    spoken = served.metric("requests_total")
    for _ in range(20):
        assert served.metric("requests_running") == 1
    assert served.metric("requests_total") > spoken
    assert served.metric("answers_total") == 0


def test_who_hangs_up_in_the_queue_leaves_it(slow: Served) -> None:
    with closing(slow.connect()) as first:
        first.sendall(asked(**ENDLESS))
        until_equal(lambda: slow.metric("requests_running"), 1)
        for _ in range(5):
            with closing(slow.connect()) as second:
                second.sendall(asked(**ENDLESS))
                until_equal(lambda: slow.metric("requests_waiting"), 1)
            until_equal(lambda: slow.metric("requests_waiting"), 0)
    slow.until_busy(0)


def test_beyond_the_queue_a_client_is_told_when_to_try_again(slow: Served) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(slow.connect())) for _ in range(2)]
        for number, connection in enumerate(connections):
            connection.sendall(asked(**({"max_tokens": 2} if number else ENDLESS)))
            slow.until_busy(number + 1)
        with pytest.raises(openai.RateLimitError, match="1 requests wait already: try again in") as caught:
            slow.client().chat.completions.create(model=None, messages=MESSAGES)
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        connections[0].close()
        # who waited is served, once the other one has hung up
        status, _, _ = split(rest(connections[1]))
        assert status == 200
    assert fine(slow)


def test_a_reader_that_does_not_read_holds_up_nobody(slow: Served) -> None:
    with closing(slow.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(asked(stream=True, max_tokens=20, **ENDLESS))
        until_equal(lambda: slow.metric("answers_total", reason="length") > 0, True)
        assert fine(slow)


def quickest(served: Served) -> float:
    """Seconds of the quickest of some replies over one connection, behind those that a client acknowledges at once."""
    with closing(served.connect()) as connection:
        seconds = []
        for _ in range(50):
            began = time.perf_counter()
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while b'"object":"list"' not in connection.recv(1 << 16):
                pass
            seconds.append(time.perf_counter() - began)
        return min(seconds[25:])


@pytest.mark.alone
def test_a_reply_does_not_wait_for_an_acknowledgement(start: Start, bundle: Path) -> None:
    """Which clients delay by 40 ms; what is planted is asyncio's way with connections that are accepted."""
    planted = f"import socket; socket.TCP_NODELAY = {socket.TCP_KEEPCNT}\n"
    assert quickest(start(bundle, before=planted)) > 0.035 > quickest(start(bundle))


@pytest.fixture(scope="module")
def impatient(start: Start, bundle: Path) -> Served:
    return start(bundle, before=IMPATIENT)


def test_one_connection_too_many_is_told_to_come_again(impatient: Served) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(closing(impatient.connect()))
        status, headers, body = split(impatient.raw(b""))
        assert (status, headers["retry-after"]) == (503, "0")  # of half a second, as this one has it
        assert body["error"]["message"] == "60 connections are open already: try again"
        until(lambda: impatient.raw(asked(max_tokens=1)).startswith(b"HTTP/1.1 200"))  # idle ones are closed by then


def test_a_slow_head_or_body_is_ended_and_holds_up_nobody(impatient: Served) -> None:
    served = impatient
    with ExitStack() as stack:
        lorises = [stack.enter_context(closing(served.connect())) for _ in range(40)]
        for number, loris in enumerate(lorises):
            loris.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: " if number % 2 else post(b"{", length=99))
        assert fine(served)
        for number, loris in enumerate(lorises):
            if number % 2:
                until_closed_while_trickling(loris)
            else:
                wanted = (408, "the request's body came too slowly")
                assert refused(rest(loris)) == wanted
    assert fine(served)


def until_closed_while_trickling(connection: socket.socket) -> None:
    """Wait until the other side closes a connection that a byte is sent on now and then."""

    def closed() -> bool:
        try:
            connection.sendall(b"x")
            return connection.recv(1, socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:  # reset, or a broken pipe
            return True

    until(closed)


def test_without_its_bound_a_slow_head_stays(start: Start, bundle: Path) -> None:
    """What uvicorn alone does, so that the test above is known to see the difference."""
    served = start(bundle, before=f"{IMPATIENT}server.BoundedConnection = server.H11Protocol\n")
    with closing(served.connect()) as loris:
        loris.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        for _ in range(4):
            assert fine(served)
            time.sleep(0.5)
            loris.sendall(b"x")
        loris.sendall(b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert loris.recv(12) == b"HTTP/1.1 200"


# --- What no client of OpenAI's would send ----------------------------------------------------------------------------


def test_a_large_body_is_refused_before_it_is_there(slow: Served) -> None:
    served = slow
    status, message = refused(served.raw(post(b"", length=10**9)))
    assert (status, message.startswith("the request is larger than 100000 bytes")) == (413, True)
    chunk = b"%x\r\n%s\r\n" % (60_000, b" " * 60_000)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with closing(served.connect()) as connection:
        connection.sendall(head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        assert connection.recv(12) == b"HTTP/1.1 413"
    assert fine(served)
    assert refused(served.raw(post(b"[" * 99_000)))[0] == 400
    # A client that goes on sending, as they do, hears of it.
    with pytest.raises(openai.APIStatusError, match="the request is larger than") as caught:
        served.client().chat.completions.create(model="x", messages=[{"role": "user", "content": "x" * 3_000_000}])
    assert caught.value.status_code == 413


def test_many_small_values_are_refused_before_they_take_memory(served: Served) -> None:
    body = b'{"messages": [' + b"[]," * 150_000 + b"[]]}"
    assert refused(served.raw(post(body))) == (400, "the request has more than 200000 brackets and commas")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b""), 400),
        (post(b"{"), 400),
        (post(b"null"), 400),
        (post(b"\xff\xfe"), 400),
        (post(b'{"messages": "hi"}'), 400),
        (post(b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 2}'), 400),
        (post(b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'), 400),
        (post(b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}'), 400),
        (post(b'{"messages": [{"role": "user", "content": "x"}], "seed": 1' + b"0" * 5000 + b"}"), 400),
        (post(b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"), 400),
        (post(b"{}", "Content-Type: text/plain"), 415),
        (post(b"{}", "Host: evil.example", "Content-Type: application/json"), 400),  # two of them
        (b"GET /v1/models HTTP/1.1\r\nHost: evil.example:8000\r\nConnection: close\r\n\r\n", 403),
        (b"GET /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n", 400),
        (b"GET /" + b"a" * 100_000, 400),
    ],
)
def test_what_is_no_request_gets_an_error_of_the_same_form(served: Served, request_: bytes, status: int) -> None:
    assert refused(served.raw(request_))[0] == status
    assert fine(served)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["user", "text", "image_url", "data:image/png;base64,AAAA", "../secret.png", "x" * 3000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
NAMES = st.sampled_from(
    ["messages", "model", "stream", "stream_options", "temperature", "top_p", "top_k", "seed", "stop", "logit_bias",
     "n", "tools", "response_format", "metadata", "repetition_penalty", "user", "zebra", "role", "content", "type"]
)  # fmt: skip
GOOD: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "wide.png"}}, {"type": "text", "text": "?"}],
        },
    ],
    "temperature": 1.0,
    "seed": 3,
    "stream": False,
}


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good request with some values changed, removed or added, and now and then its bytes."""
    request = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(1, 3))):
        place = request
        while True:
            inner = [
                value
                for value in (place.values() if isinstance(place, dict) else place)
                if value and isinstance(value, dict | list)
            ]
            if not inner or draw(st.booleans()):
                break
            place = draw(st.sampled_from(inner))
        if isinstance(place, list):
            place[draw(st.integers(0, len(place) - 1))] = draw(VALUES)
        elif draw(st.booleans()):
            place[draw(NAMES | st.sampled_from(sorted(place) or ["x"]))] = draw(VALUES)
        else:
            place.pop(draw(NAMES | st.sampled_from(sorted(place) or ["x"])), None)
    body = json.dumps({**request, "max_tokens": 2}).encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(body) - 20))
        return body[:at] + draw(st.binary(max_size=6)) + body[at + draw(st.integers(0, 6)) :]
    return body


def test_a_mutated_request_is_answered_or_refused_in_json(served: Served) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    @given(body=mutated())
    def send(body: bytes) -> None:
        reply = served.raw(post(body))
        head, _, content = reply.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            assert refused(reply)[0] in (400, 404)
            seen["refused"] += 1
        elif b"text/event-stream" in head:
            assert content.replace(b"\r\n", b"\n").rstrip(b"\n0").endswith(b"data: [DONE]")
            seen["streamed"] += 1
        else:
            assert split(reply)[2]["object"] == "chat.completion"
            seen["answered"] += 1

    send()
    assert seen["refused"] > 50 and seen["answered"] > 10, seen


def test_after_all_of_them_the_server_is_well(served: Served) -> None:
    assert fine(served)
    assert served.process.poll() is None
    assert served.metric("requests_total", status="500") == 0
    served.until_busy(0)


def test_an_answer_that_fails_is_an_error_and_the_server_goes_on(start: Start, bundle: Path) -> None:
    served = start(
        bundle,
        before="""
import pocketvlm.runtime.generation as generation
real = generation.prefill
def prefill(*arguments):
    if len(arguments[2]) > 100:
        raise MemoryError if len(arguments[2]) > 200 else ZeroDivisionError("planted")
    return real(*arguments)
generation.prefill = prefill
""",
    )
    for letters, says in ((250, "not enough memory for this answer"), (150, "the answer failed (ZeroDivisionError)")):
        messages = [{"role": "user", "content": "x" * letters}]
        with pytest.raises(openai.APIError, match="answer") as caught:
            list(served.client().chat.completions.create(model=None, messages=messages, stream=True))
        assert caught.value.message == says
        assert refused(served.raw(asked(messages=messages))) == (500, says)
    assert fine(served)


# --- Files, keys, addresses, and the end ------------------------------------------------------------------------------


def shown(url: str) -> bytes:
    part = {"type": "image_url", "image_url": {"url": url}}
    return asked(messages=[{"role": "user", "content": [part, {"type": "text", "text": "?"}]}], max_tokens=1)


OUTSIDE = [
    "../secret.png", "below/../../secret.png", "{}/secret.png", "file://{}/secret.png", "file://{}/pictures/../secret.png",
    "file:///%2e%2e/{}/secret.png", "file:../secret.png", "out.png", "out/secret.png", "FILE://{}/secret.png",
    "..//secret.png",
]  # fmt: skip


@pytest.fixture
def linked(pictures: Path, tmp_path: Path) -> Path:
    """As ``pictures``, with links that lead out, and what is no file."""
    root = tmp_path / "pictures"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes((pictures.parent / "secret.png").read_bytes())
    (root / "out.png").symlink_to("../secret.png")
    (root / "out").symlink_to("..")
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "pipe.png")
    (root / "text.png").write_text("no image")
    return root


@pytest.mark.parametrize("url", OUTSIDE)
def test_no_path_leaves_the_directory(linked: Path, url: str) -> None:
    with pytest.raises(RequestError) as caught:
        picture_bytes(url.format(linked.parent), linked, "x")
    assert caught.value.status == 400
    assert caught.value.message.endswith("below the server's --images directory")


def test_the_paths_lead_to_a_picture_where_they_may(linked: Path) -> None:
    """Else the test above would prove nothing: most of them are of the file, seen from where it is allowed."""
    secret = (linked.parent / "secret.png").read_bytes()
    inside = [url.format(linked.parent) for url in OUTSIDE if "%2e" not in url and not url.startswith("file:.")]
    for url in inside:
        path = url if url.startswith(("/", "file", "FILE")) else f"{linked}/{url}"
        assert picture_bytes(path, linked.parent, "x") == secret, url


def test_a_server_gives_nothing_outside_its_directory(served: Served, pictures: Path) -> None:
    said = {refused(served.raw(shown(url.format(pictures.parent)))) for url in OUTSIDE}
    assert {status for status, _ in said} == {400}
    there = refused(served.raw(shown("../secret.png")))[1].replace("secret", "X")
    assert there == refused(served.raw(shown("../nothing.png")))[1].replace("nothing", "X")
    assert split(served.raw(shown("wide.png")))[0] == 200


@pytest.mark.parametrize("name", ["", ".", "pipe.png", "loop.png", "a" * 5000, "a\0b", "out", "~", "nothing.png"])
def test_what_is_no_file_is_no_image(linked: Path, name: str) -> None:
    with pytest.raises(RequestError, match="there is no image") as caught:
        picture_bytes(name, linked, "x")
    assert len(caught.value.message) < 200


def test_without_a_directory_no_file_is_read(slow: Served, pictures: Path) -> None:
    for url in ("wide.png", (pictures / "wide.png").as_uri(), str(pictures / "wide.png")):
        status, message = refused(slow.raw(shown(url)))
        assert (status, "files need a server that was started with --images DIR" in message) == (400, True)


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(served: Served) -> None:
    header = b"P6 20000 20000 255\n"
    url = "data:image/ppm;base64," + base64.b64encode(header + b"\0" * 60).decode()
    status, message = refused(served.raw(shown(url)))
    assert (status, "pixels" in message) == (400, True), message


def test_a_tiling_is_of_a_size_that_can_be_opened(served: Served) -> None:
    def tiling(query: str) -> bytes:
        return served.raw(f"GET /tiling?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())

    status, _, found = split(tiling("width=140&height=70"))
    assert (status, found["across"], found["down"], found["tiles"], found["tokens"]) == (200, 2, 1, 3, 75)
    for width in ("0", "-1", "1e3", "16385", "%C2%B2", "9" * 5000, ""):
        assert refused(tiling(f"width={width}&height=1"))[0] == 400
    for query in ("", "width=1", "width=16384&height=16384"):
        assert refused(tiling(query))[0] == 400
    assert split(tiling("width=16384&height=1"))[0] == 200


def test_a_key_is_needed_for_all_but_health_and_the_page(locked: Served) -> None:
    served = locked
    for authorization in (
        "",
        "Authorization: Bearer the\r\n",
        "Authorization: Basic the key\r\n",
        "Authorization: \xff\r\n",
    ):
        for path in ("/v1/models", "/metrics", "/v1/chat/completions", "/tiling", "/nothing"):
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\r\n"
            assert refused(served.raw(head.encode("latin-1"))) == (
                401, "this server needs its key: Authorization: Bearer KEY",
            )  # fmt: skip
    with pytest.raises(openai.AuthenticationError):
        served.client("wrong").models.list()
    assert served.client().models.list().data
    assert split(served.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))[0] == 200
    page = served.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert page.startswith(b"HTTP/1.1 200") and b"the key" not in page


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_and_tells_who_waits(start: Start, bundle: Path, signal_: signal.Signals) -> None:
    served = start(bundle, before=SLOW)
    with ExitStack() as stack:
        streaming, whole, waiting = (stack.enter_context(closing(served.connect())) for _ in range(3))
        streaming.sendall(asked(stream=True, **ENDLESS))
        served.until_busy(1)
        for count, connection in ((2, whole), (3, waiting)):
            connection.sendall(asked(**ENDLESS))
            served.until_busy(count)
        served.process.send_signal(signal_)
        for connection in (whole, waiting):
            assert refused(rest(connection)) == (
                503,
                "the server is being stopped",
            )
        streamed = rest(streaming)
        assert b"data: [DONE]" in streamed and b'"cancelled"' in streamed
    code = served.process.wait(100)
    assert code == (0 if signal_ == signal.SIGINT else -signal.SIGTERM)
    assert served.process.stderr is not None
    assert served.process.stderr.read() == ""
