"""Pictures at http(s) URLs: from hosts that the server's owner names, from no other, whatever a client writes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from pocketvlm.cli import main
from pocketvlm.runtime import PocketVlm
from pocketvlm.serve import remote
from pocketvlm.serve.errors import RequestError
from pocketvlm.serve.remote import RemoteHost, RemoteImages, is_public, remote_host
from tests.serve.conftest import Served, Start
from tests.serve.test_openai_client import CONFIG, SAMPLED, ask, shown, text, user, whole
from tests.support.waiting import until

Respond = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class PictureHost:
    """An HTTP server that notes who asked it for what."""

    port: int
    asked: list[tuple[str, str]] = field(default_factory=list)
    """each request's path and Host header"""

    def url(self, path: str = "/wide.png") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def hosting(respond: Respond, tls: ssl.SSLContext | None = None) -> Iterator[PictureHost]:
    found: list[PictureHost] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found[0].asked.append((self.path, self.headers["Host"]))
            with contextlib.suppress(OSError):  # whoever asked need not stay
                respond(self)

        def log_message(self, *arguments: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *arguments: None  # type: ignore[method-assign] # of handshakes that fail
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        found.append(PictureHost(server.server_address[1]))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found[0]
        finally:
            server.shutdown()
            thread.join()


def giving(content: bytes, status: int = 200, /, **headers: str) -> Respond:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return respond


@pytest.fixture(scope="module")
def picture(pictures: Path) -> bytes:
    return (pictures / "wide.png").read_bytes()


@pytest.fixture(scope="module")
def host(picture: bytes) -> Iterator[PictureHost]:
    with hosting(giving(picture)) as host:
        yield host


def fetched(url: str, *allowed: str, take: Callable[[int], None] = lambda count: None) -> bytes:
    """What a server fetches that allows these hosts."""
    images = RemoteImages(frozenset(map(remote_host, allowed)))
    return anyio.run(images.fetch, [(url, "messages.0.content")], take)[url]


def refusal(url: str, *allowed: str) -> str:
    with pytest.raises(RequestError) as caught:
        fetched(url, *allowed)
    assert (caught.value.status, caught.value.param) == (400, "messages.0.content")
    assert "is not fetched: " in caught.value.message and "\n" not in caught.value.message
    return caught.value.message.partition("is not fetched: ")[2]


# --- As a user has it -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def allowing(start: Start, bundle: Path, host: PictureHost) -> Served:
    """A server with one host, and room for small requests alone."""
    return start(bundle, "--allow-remote-images", f"127.0.0.1:{host.port}", "--max-body-mb", "0.1")


def test_a_picture_of_an_allowed_host_is_answered_as_its_bytes_are(
    allowing: Served, host: PictureHost, vlm: PocketVlm, pictures: Path
) -> None:
    wanted = vlm.stream([user({"type": "image", "image": pictures / "wide.png"}, text("?"))], config=CONFIG).read()
    client, before = allowing.client(), len(host.asked)
    asked = [user(shown(host.url()), text("?"))]
    assert ask(client, asked, **SAMPLED).choices[0].message.content == wanted
    assert whole(ask(client, asked, stream=True, **SAMPLED))[0] == wanted
    assert host.asked[before:] == [("/wide.png", f"127.0.0.1:{host.port}")] * 2
    # once for a request, however often it is shown
    ask(client, [user(shown(host.url()), text("and")), {"role": "assistant", "content": "?"}, *asked], **SAMPLED)
    assert len(host.asked) == before + 3


def test_another_port_is_another_host(allowing: Served, picture: bytes) -> None:
    with (
        hosting(giving(picture)) as other,
        pytest.raises(openai.BadRequestError, match="none of the hosts of --allow-remote-images"),
    ):
        ask(allowing.client(), [user(shown(other.url()), text("?"))])
    assert other.asked == []


def test_without_the_option_nothing_is_fetched_and_the_option_is_named(served: Served, host: PictureHost) -> None:
    before = len(host.asked)
    with pytest.raises(openai.BadRequestError, match="start the server with --allow-remote-images HOST"):
        ask(served.client(), [user(shown(host.url()), text("?"))])
    assert len(host.asked) == before


def test_a_picture_is_as_small_as_one_in_the_request(start: Start, bundle: Path) -> None:
    """Bounded as a body is, and read no further."""
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(65536))
            sent.append(65536)

    with hosting(endless) as endless_host:
        options = ("--allow-remote-images", f"127.0.0.1:{endless_host.port}", "--max-body-mb", "0.1")
        client = start(bundle, *options).client()
        for _ in range(6):  # what was counted is given back
            with pytest.raises(openai.APIStatusError, match="larger than 100000 bytes, its images included") as caught:
                ask(client, [user(shown(endless_host.url()), text("?"))])
            assert caught.value.status_code == 413
        assert ask(client, [user("hi")], **SAMPLED).usage.completion_tokens == 12
    assert sum(sent) < 6 * 40e6  # what the sockets hold


@pytest.mark.parametrize(
    "wrong", ["*", "*.example", "http://a", "a/b", "a:0", "a:99999", "", "a b", "user@a", "[::1", "::1"]
)
def test_the_option_takes_exact_hosts_alone(wrong: str) -> None:
    from click.testing import CliRunner

    found = CliRunner().invoke(main, ["serve", "bundle", "--allow-remote-images", wrong])
    assert (found.exit_code, "is no host: give its exact name" in found.stderr) == (2, True), found.stderr


def test_an_option_is_a_host_and_a_port() -> None:
    wanted = {
        "Pictures.Example": RemoteHost("pictures.example"),
        "pictures.example:8443": RemoteHost("pictures.example", 8443),
        "[2001:0DB8::1]:80": RemoteHost("2001:db8::1", 80),
        "127.0.0.1:65535": RemoteHost("127.0.0.1", 65535),
    }
    assert {option: remote_host(option) for option in wanted} == wanted


# --- What a client writes, and what a host answers --------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.png", "http://pictures.example:81/a.png", "https://pictures.example:80/a.png",
        "http://pictures.example.other.example/", "http://pictures.example@other.example/", "http://pictures.example./",
        "http://other.example#@pictures.example/", "http://other.example\\@pictures.example/", "http://[::1]/",
        "http://other.example?.pictures.example", "http:///a.png", "http://", "https:pictures.example",
        "http://pictures.example:x/", "http://pictures.example:999999/", "http://2130706433/", "http://0x7f.1/",
        "http://me:secret@pictures.example/", "http://pictur\u0435s.example/", "http://x\r\nHost: pictures.example/",
        "http://" + "a" * 70_000,
    ],
)  # fmt: skip
def test_a_url_of_another_host_is_refused_before_anything_is_looked_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert len(refusal(url, "pictures.example")) < 300


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(host: PictureHost, status: int) -> None:
    before = len(host.asked)
    with hosting(giving(b"", status, Location=host.url())) as redirecting:
        allowed = (f"127.0.0.1:{redirecting.port}", f"127.0.0.1:{host.port}")
        assert refusal(redirecting.url(), *allowed) == f"its host answers {status}, and redirects are not followed"
    assert len(host.asked) == before


@pytest.mark.parametrize("status", [204, 206, 401, 404, 500])
def test_what_is_no_picture_is_said(status: int) -> None:
    with hosting(giving(b"", status)) as host:
        assert refusal(host.url(), f"127.0.0.1:{host.port}") == f"its host answers {status}"


def test_bytes_are_taken_as_they_come(picture: bytes) -> None:
    """Not unpacked: what is counted is what is kept."""
    headers = {"Content-Encoding": "gzip"}
    with hosting(giving(picture, **headers)) as host:
        counts: list[int] = []
        assert fetched(host.url(), f"127.0.0.1:{host.port}", take=counts.append) == picture
        assert sum(counts) == len(picture)


def test_a_host_that_is_not_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert refusal(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}")

    def no_http(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"no HTTP\r\n\r\n")

    with hosting(no_http) as host:
        assert refusal(host.url(), f"127.0.0.1:{host.port}")


def test_a_host_that_trickles_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FETCH_S", 0.5)
    over = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.02)
        finally:
            over.set()

    with hosting(trickle) as host:
        assert refusal(host.url(), f"127.0.0.1:{host.port}") == "it did not come within 0.5 s"
        until(over.is_set)


def test_a_request_names_so_many(monkeypatch: pytest.MonkeyPatch, host: PictureHost) -> None:
    monkeypatch.setattr(remote, "MOST", 2)
    images, before = RemoteImages(frozenset([RemoteHost("127.0.0.1", host.port)])), len(host.asked)
    asked = [(host.url(f"/{number}"), "") for number in range(3)]
    assert len(anyio.run(images.fetch, asked[:2], lambda count: None)) == 2
    with pytest.raises(RequestError, match="more than the 2"):
        anyio.run(images.fetch, asked, lambda count: None)
    assert len(host.asked) == before + 4


# --- Where a name leads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "192.0.2.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
     "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1",
     "64:ff9b:1::1", "2002:7f00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1"],
)  # fmt: skip
def test_an_address_that_only_this_machine_or_network_has_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


def looked_up(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names lead to these addresses, the first time, the second time, ...; what was looked up."""
    asked: list[str] = []
    left = list(answers)

    def getaddrinfo(name: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        name = name.decode() if isinstance(name, bytes) else name
        if name[0].isdigit():  # an address is its own
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port))]
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_that_leads_to_this_machine_is_refused(host: PictureHost, monkeypatch: pytest.MonkeyPatch) -> None:
    name, before = f"pictures.example:{host.port}", len(host.asked)
    looked_up(monkeypatch, ["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1"])
    for _ in range(2):  # also where another of its addresses is public
        said = refusal(f"http://{name}/", name)
        assert said == (
            "pictures.example has the address 127.0.0.1, which is not public: --allow-remote-images must have it too"
        )
    assert len(host.asked) == before
    assert fetched(f"http://{name}/", name, f"127.0.0.1:{host.port}")
    assert host.asked[before:] == [("/", name)]


def test_without_the_look_at_the_address_it_would_be_reached(
    host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the test above is known to see the difference."""
    before = len(host.asked)
    looked_up(monkeypatch, ["127.0.0.1"])
    monkeypatch.setattr(remote, "is_public", lambda address: True)
    assert fetched(f"http://pictures.example:{host.port}/", f"pictures.example:{host.port}")
    assert len(host.asked) == before + 1


def test_a_second_answer_leads_nowhere_else(host: PictureHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is this machine's to whoever looks again: the connection goes to what was looked at."""
    asked, before = looked_up(monkeypatch, ["203.0.113.1"], ["127.0.0.1"]), len(host.asked)
    monkeypatch.setattr(remote, "is_public", lambda address: address == "203.0.113.1")
    monkeypatch.setattr(remote, "CONNECT_S", 0.2)  # there is nobody
    assert refusal(f"http://pictures.example:{host.port}/", f"pictures.example:{host.port}")
    assert asked == ["pictures.example"] and len(host.asked) == before


@pytest.mark.parametrize(("name", "trusted"), [("pictures.example", True), ("other.example", False)])
def test_a_certificate_is_that_of_the_name(
    picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool
) -> None:
    """Though the connection goes to an address."""
    assert shutil.which("openssl") is not None, "openssl makes a certificate here"
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example", "-keyout", key, "-out",
         certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    looked_up(monkeypatch, ["127.0.0.1"])
    with hosting(giving(picture), tls) as host:
        url, allowed = f"https://{name}:{host.port}/a.png", (f"{name}:{host.port}", f"127.0.0.1:{host.port}")
        if trusted:
            assert fetched(url, *allowed) == picture
            assert host.asked == [("/a.png", f"{name}:{host.port}")]
        else:
            assert "CERTIFICATE_VERIFY_FAILED" in refusal(url, *allowed)
            assert host.asked == []
