"""Two pages of one project, each a process of its own: answers over HTTP, at once, and one server is killed."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ccd.artifacts import corrections_file
from ccd.review.answer_book import AnswerBook
from tests.toys.finished_run import TRAIN
from tests.toys.ui_project import open_page, write_ui_project

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.slow

CLASSES = tuple(f"class {number:02}" for number in range(25))
KEYS = [(image, name) for image in TRAIN for name in CLASSES]
LABELS = {key: number % 2 for number, key in enumerate(KEYS)}
PATH = corrections_file.path_of("toy")
IN_A_REQUEST_S = 0.002


class Reviewer:
    """A session at a server of its own. ``acknowledged``: what it was told is saved; ``unanswered``: the rest."""

    def __init__(self, session: str) -> None:
        self.acknowledged: list[tuple[str, str]] = []
        self.unanswered: list[tuple[str, str]] = []
        self._session = session
        self._open()

    def _open(self) -> None:
        self.server: subprocess.Popen[str]
        self.server, address = open_page()
        origin, _, token = address.partition("/?token=")
        self._client = httpx.Client(base_url=origin, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def answer(self, keys: Sequence[tuple[str, str]]) -> None:
        """Send an answer a request; one that is not acknowledged goes once more, to a new server."""
        for key in keys:
            self._answer(key)

    def _answer(self, key: tuple[str, str]) -> None:
        try:
            self._send(key)
        except httpx.TransportError:
            self.server.wait(10)
            self.unanswered.append(key)
            self._open()
            self._send(key)

    def _send(self, key: tuple[str, str]) -> None:
        answer = {"image_id": key[0], "class": key[1], "label": LABELS[key]}
        done = self._client.post("/api/answers", json={"answers": [answer], "session": self._session})
        assert done.status_code == 200, done.text
        self.acknowledged.append(key)

    def answer_and_kill(self, key: tuple[str, str]) -> None:
        """Send an answer to a server that is killed meanwhile."""
        killer = threading.Timer(IN_A_REQUEST_S, self.server.kill)
        killer.start()
        self._answer(key)
        killer.join()

    def end(self) -> None:
        self.server.kill()
        self.server.wait()


def test_two_servers_at_once_one_of_them_killed_lose_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_ui_project(CLASSES)
    ann = Reviewer("ann")
    bob = Reviewer("bob")
    started_again = threading.Event()

    def be_ann() -> None:
        ann.answer(KEYS[:25])
        ann.answer_and_kill(KEYS[25])
        ann.answer(KEYS[26:27])  # needs a new server, if the killed one has answered
        started_again.set()
        ann.answer(KEYS[27:50])

    def be_bob() -> None:
        bob.answer(KEYS[50:80])
        assert started_again.wait(60)
        bob.answer(KEYS[80:])

    counts = [0]
    try:
        with ThreadPoolExecutor(2) as pool:
            people = [pool.submit(be_ann), pool.submit(be_bob)]
            while not all(person.done() for person in people):
                counts.append(len(corrections_file.read_decisions(PATH, TRAIN, CLASSES)))
                time.sleep(0.002)
            for person in people:
                person.result()
    finally:
        ann.end()
        bob.end()
    assert len(ann.unanswered) == 1 and not bob.unanswered
    assert counts == sorted(counts) and len(set(counts)) > 10, "every read is whole, and answers only become more"
    assert ann.acknowledged + bob.acknowledged == KEYS
    assert corrections_file.read_decisions(PATH, TRAIN, CLASSES) == LABELS
    entries = AnswerBook(PATH, TRAIN, CLASSES, None).entries()
    who = {(entry["image_id"], entry["class"]): entry["session"] for entry in entries}
    assert [who[key] for key in KEYS] == ["ann"] * 50 + ["bob"] * 50
    assert sorted(path.name for path in PATH.parent.iterdir()) == ["toy.csv", "toy.log.jsonl"], "nothing half-written"
