"""The page's routes: a Starlette application over one project. `create_app` is the one place that lists them."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from ccd.errors import CcdError
from ccd.report.environment import template_environment
from ccd.ui.backend import LabelStudio, Predictions
from ccd.ui.facts import Service, project_facts, row_of, rows_facts, save_answers, story_facts, undo_answers
from ccd.ui.fetch import LARGEST_BYTES, Allowed
from ccd.ui.live import LiveModel
from ccd.ui.project_data import ProjectData, Tables
from ccd.ui.search import Search, TextTower
from ccd.ui.security import LABEL_STUDIO, Guard, Keys
from ccd.ui.selection import Wanted, select
from ccd.ui.thumbs import Thumbnails

HERE = Path(__file__).parent
SCRIPTS = ("common.js", "app.js", "view.js", "map.js")
STATIC = {"app.css": "text/css", "icon.svg": "image/svg+xml", **dict.fromkeys(SCRIPTS, "text/javascript")}
LARGEST_BODY_BYTES = 1 << 20
LARGEST_LIST_BYTES = 2 * LARGEST_BYTES  # of tasks, or of images as base64
T = TypeVar("T")


def create_app(
    project: ProjectData,
    keys: Keys,
    *,
    host: str,
    port: int,
    person: str,
    allowed: Allowed = "off",
    say: Callable[[str], None] = lambda line: None,
) -> Starlette:
    """Return the application over ``project``; the working directory is the project's folder.

    Args:
        keys, host, port: see `ccd.ui.security.Guard`.
        person: name under which answers are logged unless the page gives another.
        allowed: see `ccd.ui.fetch.fetch`.
        say: prints a line where the server runs.
    """
    tower = TextTower()
    thumbs = Thumbnails(project.root, follow_links=project.follow_links, cache=project.cache)
    service = Service(project, thumbs, Search(project, tower), tower, person)
    live = LiveModel(project, tower)
    label_studio = LabelStudio(project, live, say)
    backend = [
        Route("/health", _read(lambda _: label_studio.health())),
        Route("/versions", _read(lambda _: label_studio.versions())),
        Route("/setup", _write(label_studio.setup), methods=["POST"]),
        Route("/webhook", _write(label_studio.webhook), methods=["POST"]),
        Route("/predict", _predict(Predictions(project, live, allowed), label_studio), methods=["POST"]),
    ]
    routes = [
        Route("/", _page(service)),
        Route("/static/{name}", _static),
        Route("/thumb/{row:int}", _picture(service, "thumbnail")),
        Route("/photo/{row:int}", _picture(service, "photo")),
        Route("/api/project", _read(lambda _: project_facts(service))),
        Route("/api/images", _images(service)),
        Route("/api/rows", _read(lambda request: rows_facts(service, request.query_params))),
        Route("/api/story", _read(lambda request: story_facts(service, request.query_params))),
        Route("/api/map", _map(service)),
        Route("/api/sessions", _read(lambda _: service.project.book().sessions())),
        Route("/api/answers", _write(lambda body: save_answers(service, body)), methods=["POST"]),
        Route("/api/undo", _write(lambda body: undo_answers(service, body)), methods=["POST"]),
        *backend,
        Mount(f"{LABEL_STUDIO}/{{token}}", routes=backend),
    ]
    guard = Middleware(Guard, keys=keys, host=host, port=port)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={CcdError: _refused})


def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409)


Handler = Callable[[Request], Awaitable[Response]]


def _read(facts: Callable[[Request], Any]) -> Handler:
    async def answer(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(facts, request))

    return answer


def _write(act: Callable[[dict[str, Any]], Any]) -> Handler:
    async def answer(request: Request) -> Response:
        body = await _json_object(request, LARGEST_BODY_BYTES)
        return JSONResponse(await run_in_threadpool(act, body))

    return answer


def _predict(predictions: Predictions, label_studio: LabelStudio) -> Handler:
    def act(body: dict[str, Any]) -> dict[str, Any]:
        tasks = body.get("tasks")
        return label_studio.predict(tasks) if isinstance(tasks, list) else predictions.of_list(body)

    async def answer(request: Request) -> Response:
        if _content_type(request).startswith("image/"):
            data = await _content(request, LARGEST_BYTES)
            return JSONResponse(await run_in_threadpool(predictions.of_bytes, data))
        body = await _json_object(request, LARGEST_LIST_BYTES)
        return JSONResponse(await run_in_threadpool(act, body))

    return answer


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _content(request: Request, largest_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > largest_bytes:
            raise HTTPException(413, f"at most {largest_bytes} bytes")
    return bytes(data)


async def _json_object(request: Request, largest_bytes: int) -> dict[str, Any]:
    if _content_type(request) != "application/json":
        raise HTTPException(415, "application/json is needed")
    try:
        body = json.loads(await _content(request, largest_bytes))
    except (ValueError, RecursionError):
        raise HTTPException(400, "no JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "no JSON object")
    return body


def _page(service: Service) -> Handler:
    template = template_environment(HERE / "templates").get_template("app.html")

    async def answer(_: Request) -> Response:
        return HTMLResponse(template.render(name=service.project.name))

    return answer


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    headers = {"Cache-Control": "no-cache"}
    return Response((HERE / "static" / name).read_bytes(), media_type=STATIC[name], headers=headers)


def _picture(service: Service, kind: str) -> Handler:
    def make(row: int) -> bytes:
        index = service.project.index()
        if row >= len(index):
            raise HTTPException(404)
        data: bytes = getattr(service.thumbs, kind)(index, row)
        return data

    async def answer(request: Request) -> Response:
        data = await run_in_threadpool(make, request.path_params["row"])
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    return answer


def _images(service: Service) -> Handler:
    def chosen(query: Mapping[str, str]) -> bytes:
        project = service.project
        tables = project.tables()
        similarity = None
        if text := query.get("text", ""):
            similarity = service.search.by_text(text)
        elif query.get("like", ""):
            similarity = service.search.by_image(row_of(query, tables, "like"))
        wanted = _wanted(query, tables, near=similarity is not None)
        xy = None if wanted.region is None else service.search.map_points()
        return select(tables, project.decided(), wanted, similarity, xy).tobytes()

    async def answer(request: Request) -> Response:
        rows = await run_in_threadpool(chosen, request.query_params)
        return Response(rows, media_type="application/octet-stream")

    return answer


def _wanted(query: Mapping[str, str], tables: Tables, *, near: bool) -> Wanted:
    """Read the filters from a query. Raises HTTPException for values that are none."""
    name = query.get("class", "")
    if name and name not in tables.classes:
        raise HTTPException(400, "no such class")
    region = [_number(part) for part in query["region"].split(",")] if query.get("region") else None
    if region is not None and len(region) != 4:
        raise HTTPException(400, "a region is x0,y0,x1,y1")
    order = query.get("sort", "") or ("near" if near else "index")
    return Wanted(
        tables.classes.index(name) if name else -1,
        _number(query.get("low", "0")),
        _number(query.get("high", "1")),
        _one_of(query.get("split", ""), ("", "train", "test")),
        _number(query.get("doubt", "0")),
        int(_one_of(query.get("corrected", "-1"), ("-1", "0", "1"))),
        _one_of(query.get("disagree", ""), ("", "views", "student")),
        _one_of(order, ("index", "doubt", "high", "low", "near")),
        None if region is None else (region[0], region[1], region[2], region[3]),
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise HTTPException(400, "no number")
    return value


def _one_of(value: T, allowed: tuple[T, ...]) -> Any:
    if value not in allowed:
        raise HTTPException(400, f"one of {allowed} is needed")
    return value


def _map(service: Service) -> Handler:
    def points() -> bytes:
        tables = service.project.tables()
        xy = service.search.map_points()
        label = tables.steps["label"].argmax(axis=1).astype("<i2")
        doubt = np.rint(255 * np.clip(tables.doubt.max(axis=1), 0, 1)).astype("u1")
        return b"".join([xy.astype("<f4").tobytes(), label.tobytes(), doubt.tobytes()])

    async def answer(_: Request) -> Response:
        return Response(await run_in_threadpool(points), media_type="application/octet-stream")

    return answer
