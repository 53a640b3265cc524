"""Addresses that others chose: what is fetched, and what leads into private networks or does not end."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import socketserver
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from ccd.errors import CcdError
from ccd.ui import fetch as fetching
from ccd.ui.fetch import fetch, is_allowed
from tests.toys.servers import http_server, running


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


@contextmanager
def answering(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *arguments: Any) -> None:
            pass

    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        yield address


def test_what_is_asked_for_comes_back(tmp_path: Path) -> None:
    (tmp_path / "c.jpg").write_bytes(b"photo")
    with http_server(tmp_path) as (address, traffic):
        assert fetch(f"{address}/c.jpg", "loopback", soon()) == b"photo"
        with pytest.raises(CcdError, match="answers 404"):
            fetch(f"{address}/none.jpg", "loopback", soon())
        traffic.fault = lambda method, path: "short"
        with pytest.raises(CcdError, match=r"c\.jpg"):
            fetch(f"{address}/c.jpg", "loopback", soon())


def test_nothing_is_fetched_unless_asked_for_and_loopback_only_when_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    with http_server(tmp_path) as (address, traffic):
        port = address.rpartition(":")[2]
        with pytest.raises(CcdError, match="--fetch public"):
            fetch(f"{address}/a.jpg", "off", soon())
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"):
            with pytest.raises(CcdError, match=r"private or of this machine|not found"):
                fetch(f"http://{host}:{port}/a.jpg", "public", soon())
        assert not traffic.requests


@pytest.mark.parametrize(
    ("address", "public", "loopback"),
    [
        ("8.8.8.8", True, True),
        ("2606:4700::1111", True, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("10.0.0.1", False, False),
        ("192.168.1.1", False, False),
        ("172.16.0.1", False, False),
        ("100.64.0.1", False, False),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("0.0.0.0", False, False),
        ("255.255.255.255", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("fe80::1", False, False),
        ("fd00::1", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:7f00:1::", False, False),
    ],
)
def test_private_addresses_are_refused(address: str, public: bool, loopback: bool) -> None:
    found = ipaddress.ip_address(address)
    assert (is_allowed(found, "public"), is_allowed(found, "loopback")) == (public, loopback)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "gopher://127.0.0.1/a",
        "http://",
        "http://user:secret@127.0.0.1/a.jpg",
        "http://127.0.0.1:99999/a.jpg",
        "http://127.0.0.1/a.jpg\r\nX-Evil: 1",
        "http://127.0.0.1/a b.jpg",
        "s3://bucket/a.jpg",
    ],
)
def test_other_addresses_are_refused_without_a_secret_in_the_message(url: str) -> None:
    with pytest.raises(CcdError) as caught:
        fetch(url, "loopback", soon())
    assert "secret" not in str(caught.value)


def test_a_redirect_into_a_private_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(302)
        place = {"/meta": "http://169.254.169.254/latest/meta-data", "/file": "file:///etc/passwd"}
        handler.send_header("Location", place.get(handler.path, "/loop"))
        handler.end_headers()

    with answering(answer) as address:
        with pytest.raises(CcdError, match=r"169.254.169.254: its address is private"):
            fetch(f"{address}/meta", "loopback", soon())
        with pytest.raises(CcdError, match="only http and https"):
            fetch(f"{address}/file", "loopback", soon())
        asked.clear()
        with pytest.raises(CcdError, match="more than 3 redirects"):
            fetch(f"{address}/loop", "loopback", soon())
        assert len(asked) == 4


def test_a_name_that_leads_elsewhere_a_moment_later_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public when it is checked, this machine when it is connected to."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    connected = []
    lookup = lambda *arguments, **more: [(0, 0, 0, "", (next(answers), 0))]  # noqa: E731

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(place)
        raise OSError("no network in tests")

    monkeypatch.setattr(fetching.socket, "getaddrinfo", lookup)
    monkeypatch.setattr(fetching.socket, "create_connection", connect)
    with pytest.raises(CcdError, match="no network in tests"):
        fetch("http://rebind.example/a.jpg", "public", soon())
    assert connected == [("93.184.216.34", 80)]


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(0, 0, 0, "", (address, 0)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *arguments, **more: both)
    with pytest.raises(CcdError, match=r"both\.example"):
        fetch("http://both.example/a.jpg", "public", soon())


def test_what_is_too_large_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "LARGEST_BYTES", 1 << 20)

    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            while True:
                handler.wfile.write(b"x" * 65536)

    with answering(endless) as address, pytest.raises(CcdError, match="larger than 1 MB"):
        fetch(f"{address}/endless", "loopback", soon())


@pytest.mark.parametrize("in_head", [True, False])
def test_a_server_that_drips_is_cut_off_in_time(in_head: bool) -> None:
    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(b"HTTP/1.1 200 OK\r\n" + (b"X-A: " if in_head else b"\r\n"))
            try:
                while True:
                    self.request.sendall(b"x")
                    time.sleep(0.05)
            except OSError:
                pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    started = time.monotonic()
    with running(Server(("127.0.0.1", 0), Drip)) as address, pytest.raises(CcdError, match="too slow"):
        fetch(f"{address}/drip", "loopback", soon(0.5))
    assert time.monotonic() - started < 5
