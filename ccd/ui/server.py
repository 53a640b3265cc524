"""Run the page's server: one process, on loopback unless told otherwise."""

from __future__ import annotations

import getpass
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from ccd.errors import CcdError, printable
from ccd.ui.app import create_app
from ccd.ui.fetch import Allowed
from ccd.ui.project_data import ProjectData
from ccd.ui.security import LABEL_STUDIO, Keys, is_loopback, kept_token, new_token

SHUTDOWN_S = 3
LABEL_STUDIO_TOKEN = Path(".ccd/label_studio_token")


@dataclass(frozen=True)
class Serving:
    """How to serve: ``host`` to listen on, ``port``, 0 for any free one; ``browser``: open the page in it.

    ``label_studio``: print an address for Label Studio, which stays good in later runs. ``allowed``: see
    `ccd.ui.fetch.fetch`.
    """

    host: str
    port: int
    browser: bool
    label_studio: bool = False
    allowed: Allowed = "off"


def serve(how: Serving, echo: Callable[[str], None]) -> None:
    """Serve the project in the working directory until Ctrl-C; ``echo`` prints a line.

    Raises:
        CcdError: there is no project here, or the address cannot be listened on.
    """
    project = ProjectData()
    project.index()  # says what is missing before a browser opens
    _warm(project)
    keys = Keys(new_token(), kept_token(LABEL_STUDIO_TOKEN) if how.label_studio else None)
    host = how.host
    listener = _listener(host, how.port)
    port = listener.getsockname()[1]
    app = create_app(
        project,
        keys,
        host=host,
        port=port,
        person=_person(),
        allowed=how.allowed,
        say=lambda line: echo(printable(line)),
    )
    shown = f"[{host}]" if ":" in host else host
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(shown, shown)
    address = f"http://{shown}:{port}/?token={keys.token}"
    if not is_loopback(host):
        echo(
            f"warning: {host} can be reached from other machines, and nothing is encrypted: whoever sees the address or"
            " the traffic can look at the images and change the corrections; a tunnel (ssh -L) is safer"
        )
    echo(f"{project.name}: {address}\nstop with Ctrl-C; the address is good for this run alone")
    if keys.label_studio is not None:
        echo(f"Label Studio, as the URL of a model: http://{shown}:{port}{LABEL_STUDIO}/{keys.label_studio}")
    if how.browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=SHUTDOWN_S
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is named, else asyncio does not switch Nagle's algorithm off, which costs 40 ms a request
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # before the address is printed: who comes early waits and is not refused
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise CcdError(f"cannot listen on {host}, port {port}: {reason}; take another --port or --host") from None
    return listener


def _warm(project: ProjectData) -> None:
    """Read the tables before the address is printed, so that the first page comes at once."""
    with suppress(CcdError):  # the page says it
        project.tables()
        project.decided()


def _person() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"
