"""Take single answers of several people at once into ``corrections/<dataset.name>.csv``, with a log of who and when.

The log, ``corrections/<dataset.name>.log.jsonl``, has a line per answer; it is there for people and for undoing, and
decides nothing: the labels are those of the CSV.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ccd.artifacts import corrections_file
from ccd.artifacts.corrections_file import Decisions, judge, read_answers
from ccd.artifacts.files import remove_leftovers
from ccd.artifacts.image_keys import ImageKeys
from ccd.errors import CcdError, listed

LOCKS = Path(".ccd/locks")
LONGEST_NAME = 60
Key = tuple[str, str]


@dataclass(frozen=True)
class Saved:
    """What an action did: the decisions it changed, as (image id, class) -> 1, 0 or None (none any more)."""

    changed: dict[Key, int | None]
    decided: int


def log_path(path: Path) -> Path:
    """Return the log beside the corrections ``path``."""
    return path.with_name(f"{path.stem}.log.jsonl")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for and hold the lock of the corrections ``path``, which every process that rewrites them takes.

    The kernel gives it back when its process ends, however that ends.

    Raises:
        CcdError: the lock's file cannot be written.
    """
    lock = LOCKS / f"{path.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CcdError(f"{lock}: cannot be written ({error.strerror or error})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class AnswerBook:
    """The corrections ``path`` of the training images ``ids`` and ``classes``, which others may change at any moment.

    ``root``: folder of the images, for rows that name images by a path under it.
    """

    def __init__(self, path: Path, ids: Sequence[str], classes: Sequence[str], root: Path | None) -> None:
        self.path = path
        self._images = ImageKeys(ids, root)
        self._ids = frozenset(ids)
        self._classes = tuple(classes)
        self._threads = threading.RLock()
        self._known: tuple[tuple[int, ...], Decisions] | None = None
        if path.parent.is_dir():
            remove_leftovers(path.parent, path.name)

    def decisions(self) -> Decisions:
        """Return all decisions, read again where the file has changed.

        Raises:
            CcdError: see `ccd.artifacts.corrections_file.read_decisions`.
        """
        with self._threads:
            before = _signature(self.path)
            if before is None:
                return {}
            if self._known is None or self._known[0] != before:
                decisions, left_out = judge(read_answers(self.path), self._images, self._classes)
                if left_out:
                    raise CcdError(
                        f"{self.path}: {len(left_out):,} rows cannot be used: {listed(left_out, 3)}; correct them, or "
                        f"set them aside with: {corrections_file.TIDY}"
                    )
                self._known = before, decisions
            return self._known[1]

    def save(self, answers: Mapping[Key, int | None], session: str, who: str) -> Saved:
        """Write answers, (image id, class) -> 1 there, 0 not there, None undecided again; they are on disk on return.

        Raises:
            CcdError: an unknown training image or class, another label, or the file cannot be read or written.
        """
        for image, name in answers:
            if image not in self._ids:
                raise CcdError(f"{image!r} is no training image; corrections are about training images alone")
            if name not in self._classes:
                raise CcdError(f"{name!r} is no class (classes: {listed(self._classes)})")
        if any(label not in (0, 1, None) for label in answers.values()):
            raise CcdError("a label is 1 (there), 0 (not there) or null (undecided)")
        session = _checked_name(session, "session")
        who = _checked_name(who, "name")
        with self._threads, locked(self.path):
            return self._apply(dict(answers), session, who, undone=None)

    def undo(self, session: str, who: str) -> Saved:
        """Take back the last action of a session that is not taken back yet; all else stays.

        What somebody has answered anew since then stays as it is. Raises CcdError if there is nothing to undo.
        """
        session = _checked_name(session, "session")
        who = _checked_name(who, "name")
        with self._threads, locked(self.path):
            actions = _open_actions(self.entries(), session)
            if not actions:
                raise CcdError(f"session {session!r} has nothing to undo")
            action = actions[-1]
            old = self.decisions()
            back = {
                (each["image_id"], each["class"]): each["before"]
                for each in action
                if old.get((each["image_id"], each["class"])) == each["label"]
            }
            return self._apply(back, session, who, undone=str(action[0]["action"]))

    def _apply(self, answers: dict[Key, int | None], session: str, who: str, undone: str | None) -> Saved:
        old = self.decisions()
        new = {**old, **answers}
        decided: Decisions = {key: label for key, label in new.items() if label is not None}
        changed = {key: label for key, label in answers.items() if old.get(key) != label}
        if changed or not self.path.exists():
            corrections_file.write(self.path, decided)
            signature = _signature(self.path)
            self._known = None if signature is None else (signature, decided)
        now = datetime.now(timezone.utc)
        head = {"when": now.isoformat(timespec="milliseconds"), "who": who, "session": session}
        head["action"] = f"{now.timestamp():.6f}-{os.getpid()}"
        if undone is not None:
            head["undoes"] = undone
        rows = [
            {**head, "image_id": image, "class": name, "label": label, "before": old.get((image, name))}
            for (image, name), label in answers.items()
        ]
        _append(log_path(self.path), rows or ([head] if undone is not None else []))
        return Saved(changed, len(decided))

    def entries(self) -> list[dict[str, Any]]:
        """Return the lines of the log; one that a killed process left half-written is skipped."""
        try:
            lines = log_path(self.path).read_bytes().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        return [entry for line in lines if (entry := _entry(line)) is not None]

    def sessions(self) -> list[dict[str, Any]]:
        """Return each session's name, its number of answers that are not undone, who answered and when last."""
        entries = self.entries()
        names = dict.fromkeys(entry["session"] for entry in entries)
        rows = []
        for name in names:
            own = [entry for entry in entries if entry["session"] == name]
            answers = sum(len(action) for action in _open_actions(own, name))
            people = sorted({entry["who"] for entry in own})
            rows.append({"name": name, "answers": answers, "who": people, "last": own[-1]["when"]})
        return rows


def _checked_name(text: str, kind: str) -> str:
    name = " ".join(text.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise CcdError(f"a {kind} has 1 to {LONGEST_NAME} printable characters")
    return name


def _open_actions(entries: Sequence[Mapping[str, Any]], session: str) -> list[list[Mapping[str, Any]]]:
    """Return the answers of a session, action by action, without those that were undone and the undoing."""
    undone = {entry["undoes"] for entry in entries if "undoes" in entry}
    actions: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["session"] == session and "undoes" not in entry and entry["action"] not in undone:
            actions.setdefault(entry["action"], []).append(entry)
    return list(actions.values())


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    needed = {"session", "who", "when", "action"}
    answer = {"image_id", "class", "label", "before"}
    is_whole = isinstance(entry, dict) and needed <= entry.keys() and ("undoes" in entry or answer <= entry.keys())
    return entry if is_whole else None


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append lines and wait until the disk has them. Raises CcdError if that fails."""
    if not rows:
        return
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed process left half a line
                    text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CcdError(f"{path}: cannot be written ({error.strerror or error})") from None


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
