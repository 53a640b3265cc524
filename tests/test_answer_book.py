"""Answers of several people at once: written at once, whole at every moment, logged, undone; none is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ccd.artifacts import corrections_file
from ccd.errors import CcdError
from ccd.review.answer_book import AnswerBook, log_path

IDS = [f"{number:03}.jpg" for number in range(120)]
CLASSES = ["cat", "dog"]
PATH = Path("corrections/toy.csv")
ROOT = Path(__file__).resolve().parent.parent
PERSON = f"""
import sys
from pathlib import Path
from ccd.review.answer_book import AnswerBook
book = AnswerBook(Path({str(PATH)!r}), {IDS!r}, {CLASSES!r}, None)
session, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(first, last):
    book.save({{({IDS!r}[number], "cat"): number % 2}}, session, session)
    print(number, flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def book() -> AnswerBook:
    return AnswerBook(PATH, IDS, CLASSES, None)


def person(session: str, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PERSON, session, str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_an_answer_is_in_the_file_that_dvc_follows_and_in_the_log() -> None:
    saved = book().save({("001.jpg", "dog"): 1, ("000.jpg", "cat"): 0}, "first", "ann")
    assert PATH.read_text() == "image_id,class,label\n000.jpg,cat,0\n001.jpg,dog,1\n"
    assert saved.decided == 2
    lines = [json.loads(line) for line in log_path(PATH).read_text().splitlines()]
    assert [(line["who"], line["session"], line["image_id"], line["label"]) for line in lines] == [
        ("ann", "first", "001.jpg", 1),
        ("ann", "first", "000.jpg", 0),
    ]
    assert corrections_file.read_decisions(PATH, IDS, CLASSES) == {("001.jpg", "dog"): 1, ("000.jpg", "cat"): 0}


def test_undo_takes_back_the_last_action_of_its_session_alone() -> None:
    one = book()
    one.save({("001.jpg", "dog"): 1}, "first", "ann")
    one.save({("001.jpg", "dog"): 0, ("002.jpg", "dog"): 0}, "first", "ann")
    book().save({("003.jpg", "cat"): 1}, "second", "bob")
    assert one.undo("first", "ann").changed == {("001.jpg", "dog"): 1, ("002.jpg", "dog"): None}
    assert book().decisions() == {("001.jpg", "dog"): 1, ("003.jpg", "cat"): 1}
    one.undo("first", "ann")
    assert book().decisions() == {("003.jpg", "cat"): 1}
    with pytest.raises(CcdError, match="nothing to undo"):
        one.undo("first", "ann")
    assert [(each["name"], each["answers"]) for each in one.sessions()] == [("first", 0), ("second", 1)]


def test_undo_leaves_what_somebody_has_answered_since() -> None:
    one = book()
    one.save({("001.jpg", "dog"): 1}, "first", "ann")
    book().save({("001.jpg", "dog"): 0}, "second", "bob")
    assert one.undo("first", "ann").changed == {}
    assert book().decisions() == {("001.jpg", "dog"): 0}


@pytest.mark.parametrize(
    ("answers", "session", "message"),
    [
        ({("nobody.jpg", "cat"): 1}, "s", "no training image"),
        ({("001.jpg", "cow"): 1}, "s", "no class"),
        ({("001.jpg", "cat"): 2}, "s", "a label is"),
        ({("001.jpg", "cat"): 1}, "", "characters"),
        ({("001.jpg", "cat"): 1}, "x" * 61, "characters"),
        ({("001.jpg", "cat"): 1}, "a\x1b[31m", "characters"),
    ],
)
def test_what_is_no_answer_is_refused_and_nothing_written(
    answers: dict[tuple[str, str], int], session: str, message: str
) -> None:
    with pytest.raises(CcdError, match=message):
        book().save(answers, session, "ann")
    assert not PATH.exists() and not log_path(PATH).exists()


def test_rows_that_no_longer_fit_are_named_and_the_file_stays() -> None:
    PATH.parent.mkdir()
    PATH.write_text("image_id,class,label\ngone.jpg,cat,1\n")
    with pytest.raises(CcdError, match="ccd review tidy"):
        book().save({("001.jpg", "cat"): 1}, "s", "ann")
    assert PATH.read_text() == "image_id,class,label\ngone.jpg,cat,1\n"


def test_half_a_line_of_a_killed_process_costs_no_other_line() -> None:
    book().save({("001.jpg", "dog"): 1}, "s", "ann")
    with log_path(PATH).open("a") as file:
        file.write('{"when": "2026')
    book().save({("002.jpg", "dog"): 1}, "s", "ann")
    assert [entry["image_id"] for entry in book().entries()] == ["001.jpg", "002.jpg"]


@pytest.mark.slow
def test_two_people_at_once_lose_nothing_and_the_file_is_whole_at_every_moment() -> None:
    corrections_file.ensure(PATH)
    people = [person("ann", 0, 50), person("bob", 50, 100)]
    counts = [0]
    while any(each.poll() is None for each in people):
        counts.append(len(corrections_file.read_decisions(PATH, IDS, CLASSES)))
        time.sleep(0.002)
    assert [each.wait() for each in people] == [0, 0]
    assert counts == sorted(counts) and len(set(counts)) > 3, "answers only ever become more"
    final = corrections_file.read_decisions(PATH, IDS, CLASSES)
    assert final == {(IDS[number], "cat"): number % 2 for number in range(100)}
    assert len(book().entries()) == 100


@pytest.mark.slow
def test_a_killed_process_loses_no_answer_that_it_gave_back() -> None:
    victim = person("ann", 0, 100)
    assert victim.stdout is not None
    answered = [int(victim.stdout.readline()) for _ in range(20)]
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    rest = victim.stdout.read().split()
    answered += [int(word) for word in rest]
    kept = corrections_file.read_decisions(PATH, IDS, CLASSES)
    assert {IDS[number] for number in answered} <= {image for image, _ in kept}
    book().save({("119.jpg", "dog"): 1}, "bob", "bob")
    assert len(corrections_file.read_decisions(PATH, IDS, CLASSES)) == len(kept) + 1
    assert sorted(path.name for path in PATH.parent.iterdir()) == ["toy.csv", "toy.log.jsonl"]
