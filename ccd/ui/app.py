"""The page's routes: a Starlette application over one project. `create_app` is the one place that lists them."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ccd.errors import CcdError
from ccd.report.environment import template_environment
from ccd.ui.project_data import ProjectData, Tables, reruns
from ccd.ui.search import Search, TextTower, map_kind
from ccd.ui.security import Guard
from ccd.ui.selection import Wanted, select
from ccd.ui.thumbs import Thumbnails

HERE = Path(__file__).parent
SCRIPTS = ("common.js", "app.js", "view.js", "map.js")
STATIC = {"app.css": "text/css", "icon.svg": "image/svg+xml", **dict.fromkeys(SCRIPTS, "text/javascript")}
LARGEST_BODY_BYTES = 1 << 20
MOST_ROWS = 400
MOST_ANSWERS = 2000
TOP_LABELS = 3
SHOWN_LABEL = 0.3
T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """What the routes share: the project, its thumbnails and its search; ``person``: who answers unless told."""

    project: ProjectData
    thumbs: Thumbnails
    search: Search
    tower: TextTower
    person: str


def create_app(project: ProjectData, *, token: str, host: str, port: int, person: str) -> Starlette:
    """Return the application over ``project``; the working directory is the project's folder.

    Args:
        token, host, port: see `ccd.ui.security.Guard`.
        person: name under which answers are logged unless the page gives another.
    """
    tower = TextTower()
    thumbs = Thumbnails(project.root, follow_links=project.follow_links)
    service = Service(project, thumbs, Search(project, tower), tower, person)
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
    ]
    guard = Middleware(Guard, token=token, host=host, port=port)
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
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "application/json is needed")
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > LARGEST_BODY_BYTES:
                raise HTTPException(413, f"at most {LARGEST_BODY_BYTES} bytes")
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            raise HTTPException(400, "no JSON") from None
        if not isinstance(body, dict):
            raise HTTPException(400, "no JSON object")
        return JSONResponse(await run_in_threadpool(act, body))

    return answer


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


def project_facts(service: Service) -> dict[str, Any]:
    """Return what the page needs to begin with; ``error`` where the pipeline has not come far enough."""
    project = service.project
    facts: dict[str, Any] = {"name": project.name, "person": service.person, "reruns": reruns(project.name)}
    facts |= {"corrections": str(project.corrections), "tower": service.tower.is_loaded, "classes": [], "images": 0}
    try:
        index = project.index()
        facts |= {"images": len(index), "train": len(index.train_rows), "map": map_kind(len(index))}
        tables = project.tables()
        facts |= {"classes": tables.classes, "has": tables.has, "notes": tables.notes}
        facts |= {"decided": len(project.book().decisions()), "sessions": project.book().sessions()}
    except CcdError as error:
        facts["error"] = str(error)
    return facts


def _images(service: Service) -> Handler:
    def chosen(query: Mapping[str, str]) -> bytes:
        project = service.project
        tables = project.tables()
        similarity = None
        if text := query.get("text", ""):
            similarity = service.search.by_text(text)
        elif query.get("like", ""):
            similarity = service.search.by_image(_row(query, tables, "like"))
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


def _row(query: Mapping[str, str], tables: Tables, key: str) -> int:
    text = query.get(key, "")
    if not text.isascii() or not text.isdigit() or int(text[:12]) >= len(tables.index):
        raise HTTPException(404, "no such image")
    return int(text)


def rows_facts(service: Service, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return id, split, largest labels, doubt and decisions of the images ``rows`` (``1,2,3``), for the grid."""
    tables = service.project.tables()
    decided = service.project.decided()
    texts = [text for text in query.get("rows", "").split(",") if text][:MOST_ROWS]
    rows = [_row({"row": text}, tables, "row") for text in texts]
    name = query.get("class", "")
    column = tables.classes.index(name) if name in tables.classes else -1
    return [_row_facts(tables, decided, row, column) for row in rows]


def _row_facts(tables: Tables, decided: np.ndarray, row: int, column: int) -> dict[str, Any]:
    labels = np.where(decided[row] >= 0, decided[row], tables.steps["label"][row])
    order = np.argsort(-labels, kind="stable")[:TOP_LABELS]
    shown = [int(each) for each in order if labels[each] >= SHOWN_LABEL and each != column]
    shown = [column, *shown[: TOP_LABELS - 1]] if column >= 0 else shown or [int(order[0])]
    doubt = np.where(decided[row] >= 0, 0.0, tables.doubt[row])
    return {
        "row": row,
        "id": tables.index.ids[row],
        "train": bool(tables.index.is_train[row]),
        "labels": [[tables.classes[each], round(float(labels[each]), 3), int(decided[row, each])] for each in shown],
        "doubt": round(float(doubt.max() if column < 0 else doubt[column]), 3),
        "decided": int((decided[row] >= 0).sum()),
    }


def story_facts(service: Service, query: Mapping[str, str]) -> dict[str, Any]:
    """Return one image's story, with the decisions as they are now and the classes to ask about."""
    project = service.project
    tables = project.tables()
    row = _row(query, tables, "row")
    decided = project.decided()
    steps = {
        name: {step: _plain(values[row, column]) for step, values in tables.steps.items()}
        for column, name in enumerate(tables.classes)
    }
    asked = [tables.classes[column] for column in project.asked(row, decided)]
    decisions = {name: int(label) for name, label in zip(tables.classes, decided[row], strict=True) if label >= 0}
    return {**project.story(row), "row": row, "steps": steps, "asked": asked, "decided": decisions}


def _plain(value: np.floating[Any]) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


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


def save_answers(service: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    """Save ``answers`` ([{image_id, class, label}]) of ``who`` in ``session``; on disk before this returns."""
    answers = body.get("answers")
    if not isinstance(answers, list) or not 0 < len(answers) <= MOST_ANSWERS:
        raise HTTPException(400, f"1 to {MOST_ANSWERS} answers are needed")
    try:
        labels = {(str(each["image_id"]), str(each["class"])): each["label"] for each in answers}
    except (TypeError, KeyError):
        raise HTTPException(400, "an answer has image_id, class and label") from None
    if any(label is not None and type(label) is not int for label in labels.values()):
        raise HTTPException(400, "a label is 1, 0 or null")
    book = service.project.book()
    saved = book.save(labels, str(body.get("session", "review")), str(body.get("who") or service.person))
    return {"decided": saved.decided, "changed": len(saved.changed)}


def undo_answers(service: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    """Take back the last action of ``session``."""
    book = service.project.book()
    saved = book.undo(str(body.get("session", "review")), str(body.get("who") or service.person))
    images = sorted({image for image, _ in saved.changed})
    return {"decided": saved.decided, "changed": len(saved.changed), "images": images}
