"""Label Studio's JSON export as answers: what was ticked in our control, `ccd.deploy.label_formats.CONTROL`."""

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
    """The answers in an export. A task with an annotation decides every class: those chosen are present, all others
    absent. A task without one, or a skipped one, decides nothing. Boxes and other controls say nothing.

    Annotations that choose an unknown class, and tasks that are malformed, come with their problem.

    Raises:
        CcdError: the file is missing or no list of tasks, or its annotations know other controls than ours alone.
    """
    tasks = _tasks(path)
    _refuse_other_controls(path, tasks)
    return [
        answer for number, task in enumerate(tasks, start=1) for answer in _answers(f"task {number}", task, classes)
    ]


def _answers(where: str, task: Any, classes: Sequence[str]) -> Iterator[Answer]:
    try:
        image = str(task["data"]["image_id"])
        chosen = [_chosen(each) for each in task["annotations"] if not each.get("was_cancelled")]
    except (KeyError, TypeError, AttributeError) as error:
        yield Answer(where, problem=f"not as Label Studio writes it ({error!r}); {HINT}")
        return
    for names in chosen:
        unknown = sorted(names - set(classes))
        if unknown:  # the list that was chosen from is not ours, so what was not chosen says nothing
            yield Answer(where, problem=f"'{listed(unknown)}' is no class (classes: {listed(classes)})")
        else:
            yield from (Answer(where, image, name, str(int(name in names))) for name in classes)


def _chosen(annotation: Mapping[str, Any]) -> set[str]:
    """The classes ticked in our control."""
    found: set[str] = set()
    for part in annotation["result"]:
        if _is_ours(part):
            choices = part["value"]["choices"]
            found |= {choices} if isinstance(choices, str) else {str(name) for name in choices}
    return found


def _is_ours(part: Mapping[str, Any]) -> bool:
    if part["type"] != "choices":  # a relation has no from_name
        return False
    return bool(part["from_name"] == CONTROL and part.get("to_name", IMAGE) == IMAGE)


def _refuse_other_controls(path: Path, tasks: Sequence[Any]) -> None:
    """With another labelling interface than ours every image would be taken for one that shows no class."""
    parts = list(_parts(tasks))
    if any(_is_ours(part) for part in parts):
        return
    others = sorted({f"{part['from_name']} ({part['type']})" for part in parts if _could_be_meant(part)})
    if others:
        raise CcdError(
            f"{path}: no annotation has the choices '{CONTROL}' of our labelling_config.xml; its controls are: "
            f"{listed(others)}; call the one that holds the classes '{CONTROL}' and export again"
        )


def _could_be_meant(part: Mapping[str, Any]) -> bool:
    return part["from_name"] != BOXES and (part["type"] in ("choices", "taxonomy") or part["from_name"] == CONTROL)


def _parts(tasks: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of all annotations that are well formed."""
    for task in tasks:
        annotations = task.get("annotations") if isinstance(task, dict) else None
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
    except (ValueError, RecursionError) as error:  # not UTF-8 is one of them
        raise CcdError(f"{path}: not JSON ({' '.join(str(error).split())}); {HINT}") from None
    if not isinstance(content, list):
        raise CcdError(f"{path}: holds no list of tasks; {HINT}")
    return content
