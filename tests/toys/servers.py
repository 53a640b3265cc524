"""Servers on loopback for images behind URLs: moto's S3, and an HTTP server; both count bytes and make faults."""

from __future__ import annotations

import http.server
import multiprocessing
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY_ID = "AKIAPLANTEDKEYID"
SECRET = "planted+secret/key"
BUCKET = "photos"


@dataclass
class Traffic:
    """``requests``: (method, path) -> number; ``body_bytes``: sent in answers to GET; ``faults``: asked per request.

    A fault is "503", "403", "short" (half of the body), "slow" or "" for none.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    body_bytes: int = 0
    fault: Callable[[str, str], str] = lambda method, path: ""
    slow_s: float = 3.0

    def of(self, method: str) -> int:
        return sum(count for (each, _), count in self.requests.items() if each == method)

    def clear(self) -> None:
        self.requests.clear()
        self.body_bytes = 0


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[str]:
    """Run an HTTP server in a thread; yield its address."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def s3_server() -> Iterator[tuple[str, Traffic]]:
    """Run moto's S3 server; yield its endpoint."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    traffic = Traffic()
    application = DomainDispatcherApplication(create_backend_app)

    def counted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"]
        traffic.requests[method, path] += 1
        fault = traffic.fault(method, path)
        if fault == "503":
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        if fault == "403":
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"]
        if fault == "slow":
            time.sleep(traffic.slow_s)
        body = b"".join(application(environ, start_response))
        if method == "GET":
            traffic.body_bytes += len(body)
        return [body[: len(body) // 2] if fault == "short" else body]

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=Quiet)
    with running(server) as endpoint:
        yield endpoint, traffic


def s3_environment(endpoint: str) -> dict[str, str]:
    """Return the environment in which fsspec finds the server and its credentials."""
    return {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def s3_client(endpoint: str) -> Any:
    """A client of boto3, for what the tests prepare."""
    import boto3

    keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


def upload(endpoint: str, files: dict[str, bytes], bucket: str = BUCKET) -> None:
    """Put files into a bucket, which is made if it is missing."""
    client = s3_client(endpoint)
    client.create_bucket(Bucket=bucket)
    for key, content in files.items():
        client.put_object(Bucket=bucket, Key=key, Body=content)


@contextmanager
def s3_server_apart(bucket: str, count: int, content: bytes) -> Iterator[str]:
    """Run moto's S3 server in a process of its own, with ``count`` objects; yield its endpoint."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, bucket, count, content), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Any, bucket: str, count: int, content: bytes) -> None:
    from moto.s3.models import s3_backends

    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket(bucket, "us-east-1")
    for number in range(count):
        backend.put_object(bucket, f"{number:05}.jpg", content)
    with s3_server() as (endpoint, _):
        pipe.send(endpoint)
        threading.Event().wait()


@contextmanager
def http_server(folder: Path, token: str = "") -> Iterator[tuple[str, Traffic]]:
    """Serve a folder; with a ``token``, only to URLs that end in ``?token=TOKEN``. ETags are opaque, as nginx's."""
    traffic = Traffic()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, has_body: bool) -> None:
            path, _, query = self.path.partition("?")
            traffic.requests[self.command, path] += 1
            fault = traffic.fault(self.command, path)
            if token and query != f"token={token}":
                fault = "403"
            file = folder / path.lstrip("/")
            if fault in ("503", "403", "404") or not file.is_file():
                self.send_response(int(fault) if fault in ("503", "403") else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = file.read_bytes()
            start, end = 0, len(content)
            asked = self.headers.get("Range", "")
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = int(first), min(end, int(last) + 1 if last else end)
            if fault == "slow":
                time.sleep(traffic.slow_s)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", f'"{file.stat().st_mtime_ns:x}-{len(content):x}"')
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            self.end_headers()
            if has_body:
                body = content[start:end]
                body = body[: len(body) // 2] if fault == "short" else body
                self.wfile.write(body)
                traffic.body_bytes += len(body)
            if fault == "short":
                self.close_connection = True

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server) as endpoint:
        yield endpoint, traffic
