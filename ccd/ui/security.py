"""Let in only the person who was given the address: token, Host and Origin are checked before anything is read."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccd.errors import CcdError

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LABEL_STUDIO = "/label-studio"
"""Below it and its own token lie the calls of Label Studio, which sends webhooks without any header."""
_NO_TOKEN = re.compile(r"[^\w-]", re.A)
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


@dataclass(frozen=True)
class Keys:
    """Who may do what: ``token`` everything, ``label_studio`` the calls below its path; None: nobody may."""

    token: str
    label_studio: str | None = None


def kept_token(path: Path) -> str:
    """Return the token in ``path``, readable by its owner alone; a new one is written where there is none.

    Raises:
        CcdError: the file cannot be read or written, or holds no token of ours.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(new_token() + "\n")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise CcdError(f"{path}: cannot be used ({getattr(error, 'strerror', None) or error}); delete it") from None
    if len(token) < len(new_token()) or _NO_TOKEN.search(token):
        raise CcdError(f"{path}: holds no token; delete it, and a new one is written")
    return token


class Guard:
    """Answers 403 or 421 to requests that are not of the person with the token, and sets headers on all answers.

    A request is let in with the cookie, with ``Authorization: Bearer TOKEN`` or ``Basic`` with the token as password
    (programs), or on ``/`` with ``?token=``, which sets the cookie: HttpOnly, SameSite=Strict, named after the port, as
    browsers share cookies among ports. The calls of Label Studio are also let in with their own token in the path.

    The ``Host`` must be a name of this server, so that no other site's name can be made to lead here (DNS rebinding).
    What writes needs the ``Origin`` of this page, or the token in its header.

    Args:
        host: the address the server listens on. port: its port.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, host: str, port: int) -> None:
        self._app = app
        self._token = keys.token
        self._label_studio = keys.label_studio
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

        status, reason = self._refusal(scope["method"], scope["path"], headers, is_entry=is_entry)
        app: ASGIApp = PlainTextResponse(reason + "\n", status) if status else self._app
        await app(scope, receive, guarded)

    def _refusal(self, method: str, path: str, headers: Headers, *, is_entry: bool) -> tuple[int, str]:
        """Return the status and the reason of a refusal; (0, "") lets the request in."""
        host = headers.get("host", "")
        if not self._is_own_host(host):
            return 421, "this server has another name; open the address that `ccd open` printed"
        bearer = self._is_token(_sent_token(headers)) or self._is_label_studio(path)
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

    def _is_label_studio(self, path: str) -> bool:
        if self._label_studio is None or not path.startswith(f"{LABEL_STUDIO}/"):
            return False
        sent = path.removeprefix(f"{LABEL_STUDIO}/").partition("/")[0]
        return secrets.compare_digest(sent.encode(), self._label_studio.encode())

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


def _sent_token(headers: Headers) -> str:
    """Return the token in ``Authorization``: after ``Bearer``, or as the password of ``Basic``."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind != "Basic":
        return value.strip() if kind == "Bearer" else ""
    try:
        return base64.b64decode(value, validate=True).decode("ascii").partition(":")[2]
    except ValueError:
        return ""


def _cookies(headers: Headers) -> Mapping[str, str]:
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return {name: value for name, _, value in pairs}


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
