"""Let in only the person who was given the address: token, Host and Origin are checked before anything is read."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def new_token() -> str:
    """Return a token that nobody can guess: 256 random bits."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches ``host``."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class Guard:
    """Answers 403 or 421 to requests that are not of the person with the token, and sets headers on all answers.

    A request is let in with the cookie, with ``Authorization: Bearer TOKEN`` (programs), or on ``/`` with ``?token=``,
    which sets the cookie: HttpOnly, SameSite=Strict, named after the port, as browsers share cookies among ports.

    The ``Host`` must be a name of this server, so that no other site's name can be made to lead here (DNS rebinding).
    What writes needs the ``Origin`` of this page, or the token in its header.

    Args:
        host: the address the server listens on. port: its port.
    """

    def __init__(self, app: ASGIApp, *, token: str, host: str, port: int) -> None:
        self._app = app
        self._token = token
        self._host = host
        self._port = port
        self._cookie = f"ccd_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check an HTTP request; other kinds (WebSockets) are not served."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        is_entry = scope["path"] == "/" and scope["method"] == "GET" and self._is_token(asked)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    own[name] = value
                if "cache-control" not in own:
                    own["Cache-Control"] = "no-store"
                if is_entry:
                    own.append("Set-Cookie", f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        status, reason = self._refusal(scope["method"], headers, is_entry=is_entry)
        app: ASGIApp = PlainTextResponse(reason + "\n", status) if status else self._app
        await app(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers, *, is_entry: bool) -> tuple[int, str]:
        """Return the status and the reason of a refusal; (0, "") lets the request in."""
        host = headers.get("host", "")
        if not self._is_own_host(host):
            return 421, "this server has another name; open the address that `ccd open` printed"
        bearer = self._is_token(headers.get("authorization", "").removeprefix("Bearer ").strip())
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return 403, "requests of other sites are refused"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_entry:
            return 403, "requests of other sites are refused"
        if not (is_entry or bearer or self._is_token(_cookies(headers).get(self._cookie, ""))):
            return 403, "the token is missing or of an earlier server; open the address that `ccd open` printed"
        if method not in ("GET", "HEAD") and origin is None and not bearer:
            return 403, "a request that writes needs its Origin, or the token as Authorization: Bearer"
        return 0, ""

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(), self._token.encode())

    def _is_own_host(self, text: str) -> bool:
        try:
            parts = urlsplit(f"//{text}")
            port = 80 if parts.port is None else parts.port
        except ValueError:
            return False
        name = (parts.hostname or "").lower()
        if parts.username is not None or parts.path or port != self._port:
            return False
        if is_loopback(name) or name == self._host.lower():
            return True
        # a name of others can be made to lead here, an address cannot
        return not is_loopback(self._host) and _address(name) is not None


def _cookies(headers: Headers) -> Mapping[str, str]:
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return {name: value for name, _, value in pairs}


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
