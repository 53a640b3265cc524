"""What an answer of the report consists of, and the command that goes on from it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ccd.report.run import Run


@dataclass(frozen=True)
class Point:
    """What a point is about (a class, or the page's element ``anchor``), and what is said of it."""

    name: str
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Finding:
    """A question, the answer in a sentence, points about single classes or images, and how to go on: ``then`` says
    what the shell's line ``command`` is for."""

    question: str
    answer: str
    points: tuple[Point, ...]
    then: str
    command: str


def shell_line(*words: str) -> str:
    """The words as one line to paste into a shell, quoted where they need it."""
    return shlex.join(words)


def inspect_class(name: str) -> str:
    """The line that lists the images on which the labels of a class are worst."""
    return shell_line("ccd", "inspect", "--class", name, "--worst", "20")


def inspect_image(image_id: str) -> str:
    """The line that tells how one image got its labels."""
    end_of_options = ["--"] if image_id.startswith("-") else []
    return shell_line("ccd", "inspect", *end_of_options, image_id)


def count_of(number: int, what: str) -> str:
    """``1 image``, ``1,200 images``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def known_images(run: Run, split: str) -> str:
    """The base of a figure that needs ground truth: ``500 test images with ground truth``."""
    kind = "training" if split == "train" else "test"
    return f"{count_of(run.metrics[split].images, f'{kind} image')} with ground truth"
