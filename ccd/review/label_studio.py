"""Read a JSON export of Label Studio: the choices in our control, `ccd.deploy.label_formats.CONTROL`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccd.artifacts.corrections_file import Answer
from ccd.deploy.label_formats import BOXES, CONTROL, IMAGE
from ccd.errors import CcdError, listed

HINT = "in Label Studio choose Export, JSON (not JSON-MIN)"


def read_tasks(path: Path, classes: Sequence[str]) -> list[Answer]:
    """Read the answers in an export.

    A task with an annotation decides every class: those chosen are present, all others absent. A task without one, or a
    skipped one, decides nothing. Boxes and other controls are ignored. Annotations with an unknown class and malformed
    tasks give answers with a ``problem``.

    Raises:
        CcdError: the file is missing or no list of tasks, or no annotation uses our control.
    """
    tasks = _tasks(path)
    _refuse_other_controls(path, tasks)
    return [
        answer for number, task in enumerate(tasks, start=1) for answer in _answers(f"task {number}", task, classes)
    ]


def answers_of(where: str, task: Mapping[str, Any], classes: Sequence[str]) -> list[Answer]:
    """Read the answers of one task with its ``annotations``; see `read_tasks`, whose path ``where`` stands for."""
    _refuse_other_controls(where, [task])
    return list(_answers(where, task, classes))


def _answers(where: str, task: Any, classes: Sequence[str]) -> Iterator[Answer]:
    try:
        image = str(task["data"]["image_id"])
        choices = [_choices(each) for each in task["annotations"] if not each.get("was_cancelled")]
    except (KeyError, TypeError, AttributeError) as error:
        yield Answer(where, problem=f"not as Label Studio writes it ({error!r}); {HINT}")
        return
    for names in choices:
        unknown = sorted(names - set(classes))
        if unknown:  # the choices offered were not our classes, so a class that was not chosen may still be present
            yield Answer(where, problem=f"'{listed(unknown)}' is no class (classes: {listed(classes)})")
        else:
            yield from (Answer(where, image, name, str(int(name in names))) for name in classes)


def _choices(annotation: Mapping[str, Any]) -> set[str]:
    """Return the classes chosen in our control."""
    names: set[str] = set()
    for part in annotation["result"]:
        if _is_ours(part):
            choices = part["value"]["choices"]
            names |= {choices} if isinstance(choices, str) else {str(name) for name in choices}
    return names


def _is_ours(part: Mapping[str, Any]) -> bool:
    if part["type"] != "choices":  # a relation has no from_name
        return False
    return bool(part["from_name"] == CONTROL and part.get("to_name", IMAGE) == IMAGE)


def _refuse_other_controls(where: Path | str, tasks: Sequence[Any]) -> None:
    """Refuse annotations of another labelling interface: every image would be read as one that shows no class.

    Raises:
        CcdError: no annotation uses our control, but others choose something.
    """
    parts = list(_parts(tasks))
    if any(_is_ours(part) for part in parts):
        return
    others = sorted({f"{part['from_name']} ({part['type']})" for part in parts if _may_hold_classes(part)})
    if others:
        raise CcdError(
            f"{where}: no annotation has the choices '{CONTROL}' of our labelling_config.xml; its controls are: "
            f"{listed(others)}; rename the one that holds the classes to '{CONTROL}' and export again"
        )


def _may_hold_classes(part: Mapping[str, Any]) -> bool:
    return part["from_name"] != BOXES and (part["type"] in ("choices", "taxonomy") or part["from_name"] == CONTROL)


def _parts(tasks: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the well-formed parts of all annotations."""
    for task in tasks:
        annotations = task.get("annotations") if isinstance(task, Mapping) else None
        for annotation in annotations if isinstance(annotations, list) else ():
            result = annotation.get("result") if isinstance(annotation, dict) else None
            for part in result if isinstance(result, list) else ():
                if isinstance(part, dict) and {"type", "from_name"} <= part.keys():
                    yield part


def _tasks(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise CcdError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # ValueError: also text that is not UTF-8
        raise CcdError(f"{path}: not JSON ({' '.join(str(error).split())}); {HINT}") from None
    if not isinstance(content, list):
        raise CcdError(f"{path}: holds no list of tasks; {HINT}")
    return content
