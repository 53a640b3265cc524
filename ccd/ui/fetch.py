"""Fetch one image behind an http(s) address that somebody else chose, without being led into private networks."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Literal
from urllib.parse import SplitResult, urljoin, urlsplit

from ccd.errors import CcdError, redacted

Allowed = Literal["off", "public", "loopback"]
LARGEST_BYTES = 32 << 20
MOST_REDIRECTS = 3
CONNECT_S = 5.0
READ_S = 15.0
CHUNK_BYTES = 1 << 16
_EMBED_IPV4 = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def fetch(url: str, allowed: Allowed, until: float) -> bytes:
    """Return the bytes behind ``url``.

    A host's addresses are looked up once, all of them are checked, and the connection goes to a checked one, so a name
    that leads elsewhere a moment later gains nothing. Every redirect is checked likewise.

    Args:
        allowed: ``public``: addresses of the public internet; ``loopback``: those and this machine's.
        until: `time.monotonic` at which it must be done.

    Raises:
        CcdError: fetching is off, the address is none that is allowed, or the answer is an error, too large or too
            slow.
    """
    if allowed == "off":
        raise CcdError(f"{redacted(url)}: not fetched; start the server with --fetch public to allow it")
    for _ in range(MOST_REDIRECTS + 1):
        target = _checked(url)
        status, location, data = _get(target, _resolved(target, allowed), until)
        if status not in (301, 302, 303, 307, 308):
            if status != 200:
                raise CcdError(f"{redacted(url)}: the server answers {status}")
            return data
        url = urljoin(url, location)
    raise CcdError(f"{redacted(url)}: more than {MOST_REDIRECTS} redirects")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise CcdError(f"{redacted(url)}: no address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise CcdError(f"{redacted(url)}: only http and https addresses are fetched")
    if parts.username is not None:
        raise CcdError(f"{redacted(url)}: names and passwords in addresses are not sent")
    if any(character <= " " or character == "\x7f" for character in url):
        raise CcdError(f"{redacted(url)!r}: spaces and control characters must be written as %20")
    return parts


def _resolved(target: SplitResult, allowed: Allowed) -> str:
    """Return an address of the host. Raises CcdError if any of its addresses is not allowed."""
    host = target.hostname or ""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise CcdError(f"{host}: not found ({getattr(error, 'strerror', None) or error})") from None
    addresses = [str(each[4][0]) for each in found]
    if not addresses or not all(
        is_allowed(ipaddress.ip_address(each.partition("%")[0]), allowed) for each in addresses
    ):
        hint = "" if allowed == "loopback" else "; --fetch loopback allows this machine's own"
        raise CcdError(f"{host}: its address is private or of this machine, and is not fetched{hint}")
    return addresses[0]


def is_allowed(address: Address, allowed: Allowed) -> bool:
    """Tell whether an address may be fetched from; IPv6 addresses that stand for IPv4 ones are told by those."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_allowed(address.ipv4_mapped, allowed)
        if any(address in network for network in _EMBED_IPV4):
            return False
    if address.is_loopback:
        return allowed == "loopback"
    return address.is_global and not address.is_multicast


def _get(target: SplitResult, address: str, until: float) -> tuple[int, str, bytes]:
    """Return status, location and body of one request."""
    url = redacted(target.geturl())
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise CcdError(f"{url}: no time is left")
    connection = _Pinned(target, address, min(CONNECT_S, left_s))
    late = threading.Timer(left_s, connection.cut)  # a server may send a byte at a time for ever
    late.daemon = True
    late.start()
    try:
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "ccd", "Connection": "close"})
        response = connection.getresponse()
        if response.status != 200:
            return response.status, response.headers.get("Location", ""), b""
        data = _body(response, url)
        if connection.is_cut:
            raise CcdError(f"{url}: too slow")
        return response.status, "", data
    except (OSError, http.client.HTTPException, ValueError) as error:
        if connection.is_cut:
            raise CcdError(f"{url}: too slow") from None
        raise CcdError(f"{url}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}") from None
    finally:
        late.cancel()
        connection.close()


def _body(response: http.client.HTTPResponse, url: str) -> bytes:
    data = bytearray()
    while chunk := response.read(CHUNK_BYTES):
        data += chunk
        if len(data) > LARGEST_BYTES:
            raise CcdError(f"{url}: larger than {LARGEST_BYTES >> 20} MB")
    if response.length:
        raise CcdError(f"{url}: the answer ends too early")
    return bytes(data)


class _Pinned(http.client.HTTPConnection):
    """A connection to a checked address, whatever the name of the host leads to now."""

    def __init__(self, target: SplitResult, address: str, timeout_s: float) -> None:
        is_secure = target.scheme == "https"
        super().__init__(target.hostname or "", target.port or (443 if is_secure else 80), timeout=timeout_s)
        self._address = address
        self._context = ssl.create_default_context() if is_secure else None
        self._line: socket.socket | None = None  # `sock` is taken from the connection once the head has been read
        self.is_cut = False
        if is_secure:
            self.default_port = 443  # so that it is left out of Host

    def connect(self) -> None:
        """Connect to the address; the certificate must be the host's."""
        plain = socket.create_connection((self._address, self.port), self.timeout)
        plain.settimeout(READ_S)
        self.sock = plain if self._context is None else self._context.wrap_socket(plain, server_hostname=self.host)
        self._line = self.sock
        if self.is_cut:
            self.cut()

    def cut(self) -> None:
        """End the connection from another thread."""
        self.is_cut = True
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
