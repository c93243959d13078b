"""Pictures on hosts that the server's owner names: from an address that was looked at, bounded in bytes and in time.

What a client writes must not make the server ask machines that only the server reaches (server-side request forgery):
https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import anyio
import httpx2

from pocketvlm.errors import one_line
from pocketvlm.serve.errors import RequestError

#: Seconds for all pictures of a request, and for a connection; most pictures of a request.
FETCH_S, CONNECT_S, MOST = 20.0, 5.0, 64
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
PORTS = {"http": 80, "https": 443}
#: What is given out of IPv6 to machines; the rest is local, or leads to IPv4 by some translation.
UNICAST = ipaddress.ip_network("2000::/3")


@dataclass(frozen=True)
class RemoteHost:
    """A host by its exact name, in lower case, or its address; ``port``: None for those of http and https."""

    name: str
    port: int | None = None


def remote_host(text: str) -> RemoteHost:
    """A host as an option names it: "pictures.example", "pictures.example:8443", "[2001:db8::1]:80".

    :raises ValueError: it is none, or would allow more than one host
    """
    match = HOST.fullmatch(text)
    if match is None or int(match[2] or 1) not in range(1, 1 << 16):
        what = "give its exact name or address, with :PORT where it is not that of http or https"
        raise ValueError(f"{one_line(text, 80)!r} is no host: {what} (no URL, no wildcard)")
    return RemoteHost(_plain(match[1].strip("[]")), int(match[2]) if match[2] else None)


@dataclass(frozen=True)
class RemoteImages:
    """Fetches pictures from the hosts in ``allowed``, and from no other.

    The name is looked up once, and the connection goes to what was found, so that a second answer cannot lead
    elsewhere. Addresses that are not public are refused, unless ``allowed`` has the address itself. Redirects are not
    followed, and no proxy of the environment is asked.
    """

    allowed: frozenset[RemoteHost]

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx2.create_ssl_context()

    async def fetch(self, asked: Iterable[tuple[str, str]], take: Callable[[int], None]) -> dict[str, bytes]:
        """The bytes behind URLs, each beside the parameter that an error names. ``take`` is told of bytes before they
        are kept, and raises where they are too many.

        :raises RequestError: a URL is of no host in ``allowed``, or nothing came from there
        """
        fetched: dict[str, bytes] = {}
        where = "", ""
        try:
            with anyio.fail_after(FETCH_S):
                for where in asked:
                    if where[0] not in fetched:
                        if len(fetched) == MOST:
                            raise _refusal(*where, f"it is more than the {MOST} that are fetched for a request")
                        fetched[where[0]] = await self._fetch(*where, take)
        except TimeoutError:
            raise _refusal(*where, f"it did not come within {FETCH_S:g} s") from None
        return fetched

    async def _fetch(self, shown: str, param: str, take: Callable[[int], None]) -> bytes:
        try:
            url = httpx2.URL(shown)
            host, port = _plain(url.raw_host.decode("ascii")), url.port or PORTS[url.scheme]
        except (httpx2.InvalidURL, KeyError, ValueError):
            raise _refusal(shown, param, "it is no URL") from None
        if url.userinfo:
            raise _refusal(shown, param, "it has a name or a password in it")
        if not self._allows(host, port, url.scheme):
            what = f"{one_line(host, 60)}:{port} is none of the hosts of --allow-remote-images"
            raise _refusal(shown, param, what)
        try:
            addresses = await _addresses(host, port)
            if refused := [one for one in addresses if not (is_public(one) or self._allows(one, port, url.scheme))]:
                what = (
                    f"{host} has the address {refused[0]}, which is not public: --allow-remote-images must have it too"
                )
                raise _refusal(shown, param, what)
            return await self._download(url, addresses, shown, param, take)
        except (OSError, UnicodeError, httpx2.HTTPError) as error:
            why = one_line(error, 120) or type(error).__name__
            raise _refusal(shown, param, why) from None

    def _allows(self, host: str, port: int, scheme: str) -> bool:
        return RemoteHost(host, port) in self.allowed or (port == PORTS[scheme] and RemoteHost(host) in self.allowed)

    async def _download(
        self, url: httpx2.URL, addresses: list[str], shown: str, param: str, take: Callable[[int], None]
    ) -> bytes:
        """From the first address that takes the connection."""
        timeout = httpx2.Timeout(FETCH_S, connect=CONNECT_S)
        async with httpx2.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, timeout=timeout
        ) as client:
            for address in addresses:
                request = client.build_request(
                    "GET",
                    url.copy_with(host=address),
                    headers={"Host": url.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"},
                    extensions={"sni_hostname": url.raw_host.decode("ascii")},  # whose certificate it has to be
                )
                try:
                    response = await client.send(request, stream=True)
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    if address == addresses[-1]:
                        raise
                    continue
                try:
                    return await _body(response, shown, param, take)
                finally:
                    await response.aclose()
        raise _refusal(shown, param, "its host has no address")


async def _addresses(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _body(response: httpx2.Response, shown: str, param: str, take: Callable[[int], None]) -> bytes:
    if response.is_redirect:
        raise _refusal(shown, param, f"its host answers {response.status_code}, and redirects are not followed")
    if response.status_code != 200:
        raise _refusal(shown, param, f"its host answers {response.status_code}")
    body = bytearray()
    async for part in response.aiter_raw():  # not unpacked: few bytes could become many
        take(len(part))
        body += part
    return bytes(body)


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's, of a single machine, and leads to no other."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # of one interface: fe80::1%eth0
        return False
    if isinstance(found, ipaddress.IPv6Address) and (found not in UNICAST or found.sixtofour or found.teredo):
        return False
    return found.is_global and not found.is_multicast


def _plain(name: str) -> str:
    """A name in lower case, an address in its one form."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def _refusal(url: str, param: str, why: str) -> RequestError:
    return RequestError(400, f"the image at {one_line(url, 100)!r} is not fetched: {why}", param, "image_not_fetched")
