"""What programs and labelling tools ask for: ``POST /predict``, and the calls of Label Studio's ML backends."""

from __future__ import annotations

import base64
import binascii
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from starlette.exceptions import HTTPException

from ccd.deploy.label_formats import BOXES, CONTROL, label_studio_prediction
from ccd.errors import CcdError, listed
from ccd.images.remote import located
from ccd.review.label_studio import answers_of
from ccd.ui.fetch import Allowed, fetch
from ccd.ui.live import LiveModel, Unreadable
from ccd.ui.project_data import ProjectData

if TYPE_CHECKING:
    from ccd.deploy.labelled import LabelledImage

MOST_IMAGES = 64
MOST_TASKS = 10_000
LONGEST_S = 90.0  # Label Studio waits for 100
SESSION = "label studio"


def project_images(project: ProjectData, names: Iterable[str]) -> dict[str, Path]:
    """Return where the images are that ``names`` (ids, or paths as in the index) name; others are left out."""
    index = project.index()
    keys = project.keys()
    row_of = project.row_of()
    ids = {name: keys.find(name) for name in names}
    return {name: located(project.root, index.paths[row_of[known]]) for name, known in ids.items() if known is not None}


class Predictions:
    """Answers ``POST /predict``: images of the project by name, addresses where fetching is allowed, and bytes."""

    def __init__(self, project: ProjectData, live: LiveModel, allowed: Allowed) -> None:
        self._project = project
        self._live = live
        self._allowed = allowed

    def of_list(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Predict for ``images``: ids or paths of the index, http(s) addresses, or ``data:`` URLs with base64.

        Raises:
            HTTPException: no such list, or too many; see also `LiveModel.label`.
        """
        names = body.get("images")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise HTTPException(400, 'a JSON object with a list is needed: {"images": [...]}')
        if not 0 < len(names) <= MOST_IMAGES:
            raise HTTPException(413, f"1 to {MOST_IMAGES} images at once")
        until = time.monotonic() + LONGEST_S
        own = project_images(self._project, [name for name in names if not _is_address(name)])
        sent = {name: _content(name, self._allowed, until) for name in dict.fromkeys(names) if _is_address(name)}
        return self._facts(names, own, sent, until)

    def of_bytes(self, data: bytes) -> dict[str, Any]:
        """Predict for one image, sent as it is."""
        return self._facts(["image"], {}, {"image": data}, time.monotonic() + LONGEST_S)

    def _facts(
        self, names: Sequence[str], own: Mapping[str, Path], sent: Mapping[str, bytes | CcdError], until: float
    ) -> dict[str, Any]:
        named: dict[str, LabelledImage | Unreadable] = {}
        files: dict[str, Path] = {}
        with tempfile.TemporaryDirectory(prefix="ccd-") as folder:
            for number, (name, data) in enumerate(sent.items()):
                if isinstance(data, CcdError):
                    named[name] = Unreadable(str(data))
                else:
                    files[name] = Path(folder, f"image {number}")
                    files[name].write_bytes(data)
            answers = self._live.label(list(own.values()), until, passing=list(files.values()))
        named |= {name: answers.of[path] for name, path in own.items()}
        named |= {name: _renamed(answers.of[path], path) for name, path in files.items()}
        images = []
        for name in names:
            answer = named.get(name, Unreadable("no image of this project"))
            images.append({"image": _short(name), **_image_facts(answer, answers.classes)})
        return {"model": answers.model.name, "version": answers.model.version, "images": images}


def _renamed(answer: LabelledImage | Unreadable, path: Path) -> LabelledImage | Unreadable:
    """Leave the name of a temporary file out of the reason."""
    return Unreadable(answer.reason.replace(str(path), "the image")) if isinstance(answer, Unreadable) else answer


def _image_facts(answer: LabelledImage | Unreadable, classes: Sequence[str]) -> dict[str, Any]:
    if isinstance(answer, Unreadable):
        return {"error": answer.reason}
    boxes = [
        {"class": classes[box.class_index], "score": round(box.score, 4)}
        | {"x0_px": box.x0_px, "y0_px": box.y0_px, "x1_px": box.x1_px, "y1_px": box.y1_px}
        for box in answer.boxes
    ]
    probabilities = {name: round(float(value), 4) for name, value in zip(classes, answer.values, strict=True)}
    facts = {"labels": [classes[column] for column in answer.present], "probabilities": probabilities, "boxes": boxes}
    return {**facts, "width_px": answer.width_px, "height_px": answer.height_px}


def _is_address(name: str) -> bool:
    return name.startswith(("http://", "https://", "data:"))


def _content(name: str, allowed: Allowed, until: float) -> bytes | CcdError:
    try:
        if not name.startswith("data:"):
            return fetch(name, allowed, until)
        head, _, data = name.partition(",")
        if not head.endswith(";base64"):
            raise CcdError("a data: URL must be base64")
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        return CcdError("not base64")
    except CcdError as error:
        return error


def _short(name: str) -> str:
    """Return a name to answer with: a data: URL without its data."""
    return name.partition(",")[0] if name.startswith("data:") else name


class LabelStudio:
    """Answers Label Studio (its ML backend interface) about a project whose labelling interface is ours.

    Label Studio shows no reason of a refusal, so ``say`` prints it where the server runs.
    """

    def __init__(self, project: ProjectData, live: LiveModel, say: Callable[[str], None]) -> None:
        self._project = project
        self._live = live
        self._say = say

    def health(self) -> dict[str, Any]:
        """Return that the server runs, without loading anything: Label Studio waits one second."""
        return {"status": "UP", "model_class": f"ccd {self._live.model().name}"}

    def setup(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Check the labelling interface (``schema``) and return the version of the model.

        Raises:
            CcdError: the interface has no choice of our classes.
        """
        if schema := body.get("schema"):
            problem = interface_problem(str(schema), self._project.text().classes)
            if problem is not None:
                self._say(f"Label Studio: {problem}")
                raise CcdError(problem)
        return {"model_version": self._live.model().version}

    def versions(self) -> dict[str, Any]:
        """Return the versions there are: one."""
        return {"versions": [self._live.model().version]}

    def predict(self, tasks: Sequence[Any]) -> dict[str, Any]:
        """Return a prediction per task, empty for images that are not the project's.

        Raises:
            HTTPException: no such list, or too many; see also `LiveModel.label`.
        """
        if not 0 < len(tasks) <= MOST_TASKS or not all(isinstance(task, Mapping) for task in tasks):
            raise HTTPException(400, f"1 to {MOST_TASKS} tasks are needed")
        until = time.monotonic() + LONGEST_S
        names = [_names(task) for task in tasks]
        places = project_images(self._project, {name for each in names for name in each})
        paths = [next((places[name] for name in each if name in places), None) for each in names]
        answers = self._live.label([path for path in paths if path is not None], until)
        version = answers.model.version
        unknown = Unreadable("no image of this project; tasks from `ccd export labels --format labelstudio` are")
        results = []
        for names_of_task, path in zip(names, paths, strict=True):
            answer = unknown if path is None else answers.of[path]
            if isinstance(answer, Unreadable):
                self._say(f"Label Studio: {listed(names_of_task) or 'a task'}: {answer.reason}")
                results.append({"result": [], "score": 0.0, "model_version": version})
            else:
                results.append({**label_studio_prediction(answers.classes, answer), "model_version": version})
        return {"results": results}

    def webhook(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Save an annotation that was made or changed as decisions about all classes; other events change nothing.

        Deleting an annotation takes back nothing: which decisions it made is not told.

        Raises:
            CcdError: it is not as Label Studio sends it, or its image or classes are not the project's.
        """
        action = str(body.get("action", ""))
        if action not in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            if action == "START_TRAINING":
                self._say(f"Label Studio asks for training: run dvc repro, which reads {self._project.corrections}")
            return {"saved": 0}
        try:
            return {"saved": self._save(body)}
        except CcdError as error:
            self._say(f"Label Studio: an annotation was not saved: {error}")
            raise

    def _save(self, body: Mapping[str, Any]) -> int:
        annotation = body.get("annotation")
        task = body.get("task")
        if not isinstance(annotation, Mapping) or not isinstance(task, Mapping):
            raise CcdError("the webhook must send its payload, with the annotation and the task")
        names = _names(task)
        image = next(filter(None, map(self._project.keys().find, names)), None)
        if image is None:
            raise CcdError(f"{listed(names) or 'the task'}: no image of this project")
        read = {"data": {"image_id": image}, "annotations": [annotation]}
        answers = answers_of("the annotation", read, self._project.text().classes)
        problems = [answer.problem for answer in answers if answer.problem]
        if problems:
            raise CcdError(problems[0])
        labels: dict[tuple[str, str], int | None] = {(each.image, each.name): int(each.label) for each in answers}
        if labels:
            self._project.book().save(labels, SESSION, _person(annotation))
        return len(labels)


def _person(annotation: Mapping[str, Any]) -> str:
    """Return who made an annotation: a name if Label Studio sends one, else the number it knows them by."""
    name = str(annotation.get("created_username") or "").partition(",")[0].strip()
    return name or f"Label Studio user {annotation.get('completed_by')}"


def interface_problem(schema: str, classes: Sequence[str]) -> str | None:
    """Return what keeps a labelling interface (XML) from showing labels of ``classes``; None: nothing."""
    advice = "take labelling_config.xml of `ccd export labels --format labelstudio`"
    try:
        root = ET.fromstring(schema)
    except ET.ParseError as error:
        return f"the labelling interface is not XML ({error}); {advice}"
    control = next((each for each in root.iter("Choices") if each.get("name") == CONTROL), None)
    if control is None:
        return f"the labelling interface has no <Choices name='{CONTROL}'>; {advice}"
    offered = {each.get("value") for each in control.iter("Choice")}
    missing = [name for name in classes if name not in offered]
    if missing:
        return f"the labelling interface does not offer {listed(missing)}; {advice}"
    if not any(each.get("name") == BOXES for each in root.iter("RectangleLabels")):
        return f"the labelling interface has no <RectangleLabels name='{BOXES}'>; {advice}"
    return None


def _names(task: Mapping[str, Any]) -> list[str]:
    """Return what a task calls its image: ``image_id``, else the path in its address."""
    data = task.get("data")
    if not isinstance(data, Mapping):
        return []
    address = str(data.get("image") or "")
    parts = urlsplit(address)
    inner = parse_qs(parts.query).get("d", [])  # local storage: /data/local-files/?d=PATH
    names = [str(data.get("image_id") or ""), *inner, unquote(parts.path).lstrip("/")]
    return [name for name in names if name]
