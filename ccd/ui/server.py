"""Run the page's server: one process, on loopback unless told otherwise."""

from __future__ import annotations

import getpass
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from ccd.errors import CcdError
from ccd.ui.app import create_app
from ccd.ui.project_data import ProjectData
from ccd.ui.security import is_loopback, new_token

SHUTDOWN_S = 3


def serve(host: str, port: int, echo: Callable[[str], None], *, browser: bool) -> None:
    """Serve the project in the working directory until Ctrl-C.

    Args:
        host: address to listen on. port: 0 for any free one.
        echo: prints a line.
        browser: open the page in the default browser.

    Raises:
        CcdError: there is no project here, or the address cannot be listened on.
    """
    project = ProjectData()
    project.index()  # says what is missing before a browser opens
    _warm(project)
    listener = _listener(host, port)
    port = listener.getsockname()[1]
    token = new_token()
    app = create_app(project, token=token, host=host, port=port, person=_person())
    shown = f"[{host}]" if ":" in host else host
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(shown, shown)
    address = f"http://{shown}:{port}/?token={token}"
    if not is_loopback(host):
        echo(
            f"warning: {host} can be reached from other machines, and nothing is encrypted: whoever sees the address or"
            " the traffic can look at the images and change the corrections; a tunnel (ssh -L) is safer"
        )
    echo(f"{project.name}: {address}\nstop with Ctrl-C; the address is good for this run alone")
    if browser:
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
