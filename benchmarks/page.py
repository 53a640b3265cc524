"""Measures ``ccd open`` on synthetic images: seconds of each request, and memory: ``python -m benchmarks.page``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.synthetic import SIZE_PX, write_artifacts, write_report_inputs
from benchmarks.tables import machine
from ccd.artifacts import bias_file, class_table, corrections_file
from ccd.artifacts.class_table import PSEUDO_LABELS, ClassTable
from ccd.labels.debias import nobody_decided
from ccd.params.presets import apply_preset

ROOT = Path(__file__).resolve().parent.parent
PHOTO = "photo.jpg"
SETTLED_S = 3.0  # a process checks the seal of a file that was just written each time, see `ccd.artifacts.sealed`


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--images", type=click.IntRange(10), default=100_000, help="N, all of them training images.")
@click.option("--classes", type=click.IntRange(2), default=20, help="C.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Requests of each kind; the median and the largest.")
def main(images: int, classes: int, repeats: int) -> None:
    """Write a project of synthetic artifacts, serve it, and ask for what the page asks for.

    The embeddings have the width of the demo's CLIP, whose text tower is used.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_project(images, classes)
        time.sleep(SETTLED_S)
        click.echo(machine())
        click.echo("\n".join(measured(images, classes, repeats)))


def write_project(images: int, classes: int) -> None:
    """Write artifacts as after ``aggregate`` into the working directory."""
    data = Path("data/big")
    write_artifacts(data, images, classes, 64, 1.0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE_PX, 3), np.uint8))
    Path("photos").mkdir()
    image.save(Path("photos") / PHOTO)
    write_report_inputs(data, Path("photos"), PHOTO)
    names = tuple(f"class {number}" for number in range(classes))
    rng = np.random.default_rng(1)
    ids = [f"train/{number:08}" for number in range(images)]
    shape = (images, classes)
    columns = {name: rng.random(shape, np.float32) ** 4 for name, *_ in PSEUDO_LABELS.columns}
    columns["box_id"] = np.full(shape, -1)
    columns |= nobody_decided(shape)
    class_table.write(data / "pseudo_labels.parquet", PSEUDO_LABELS, ClassTable(ids, names, columns, {"alpha": "0.4"}))
    ones = np.ones(classes)
    counts = ones.astype(np.int64)
    bias_file.write(data / "bias.json", bias_file.BiasFile(names, ones, counts, 1.0, 2.0, 0.0, False, ()))
    corrections_file.ensure(corrections_file.path_of("big"))
    model = str(ROOT / "ccd/demo/assets/clip.pt")
    settings = {"dataset.name": "big", "teacher.model": model, "text.logit_scale": "100.0"}
    Path("params.yaml").write_text(apply_preset("folder", "photos", settings))


def measured(images: int, classes: int, repeats: int) -> list[str]:
    """Serve the project in the working directory and return a line per kind of request."""
    import httpx

    command = [sys.executable, "-m", "ccd.cli.main", "open", "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        found = re.search(r"(http://[^/]+)/\?token=(\S+)", server.stdout.readline())
        assert found is not None
        lines = [f"{images:,} images, {classes} classes", f"address printed after {time.perf_counter() - start:.2f} s"]
        client = httpx.Client(base_url=found[1], timeout=120)
        client.headers["Authorization"] = f"Bearer {found[2]}"

        def ask(path: str) -> Callable[[], object]:
            return lambda: client.get(path).raise_for_status()

        first = time.perf_counter()
        for path in ("/", "/static/app.js", "/api/project", "/api/images", _rows_path(0)):
            ask(path)()
        lines.append(f"first page, all its requests: {time.perf_counter() - first:.3f} s")
        lines.append(f"memory of the server at most, without the tower: {_peak_gb(server.pid):.2f} GB")
        first = time.perf_counter()
        ask("/api/images?text=a+dog")()
        lines.append(f"first text search, loading the tower: {time.perf_counter() - first:.2f} s")
        rng = np.random.default_rng(0)
        kinds: dict[str, Callable[[int], str]] = {
            "filter by class and label": lambda turn: f"/api/images?class=class+{turn % classes}&low=0.5",
            "order by doubt": lambda turn: f"/api/images?sort=doubt&doubt=0.{turn % 9}1",
            "views against whole image": lambda turn: f"/api/images?disagree=views&class=class+{turn % classes}",
            "scrolling: captions of a screen": lambda _: _rows_path(int(rng.integers(0, images - 60))),
            "thumbnail, new": lambda turn: f"/thumb/{turn}",
            "thumbnail, again": lambda turn: f"/thumb/{turn}",
            "text search": lambda turn: f"/api/images?text=word+{turn}",
            "similar images": lambda turn: f"/api/images?like={turn}",
            "map, after the first": lambda _: "/api/map",
            "one image's story": lambda turn: f"/api/story?row={turn}",
        }
        ask("/api/map")()
        for name, path_of in kinds.items():
            seconds = [_seconds(ask(path_of(turn))) for turn in range(repeats)]
            lines.append(
                f"{name}: median {1000 * float(np.median(seconds)):.0f} ms, largest {1000 * max(seconds):.0f} ms"
            )
        seconds = [_seconds(lambda turn=turn: _answer(client, turn)) for turn in range(repeats)]  # type: ignore[misc]
        lines.append(
            f"an answer: median {1000 * float(np.median(seconds)):.0f} ms, largest {1000 * max(seconds):.0f} ms"
        )
        return [*lines, f"memory of the server at most, with the tower: {_peak_gb(server.pid):.2f} GB"]
    finally:
        server.terminate()
        server.wait()


def _answer(client: object, turn: int) -> None:
    answers = [{"image_id": f"train/{turn:08}", "class": "class 0", "label": turn % 2}]
    client.post("/api/answers", json={"answers": answers}).raise_for_status()  # type: ignore[attr-defined]


def _peak_gb(process: int) -> float:
    """Return the largest memory that a process has had, from Linux."""
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(peak[1]) * 1024 / 1e9 if peak else float("nan")


def _rows_path(first: int) -> str:
    return "/api/rows?rows=" + ",".join(str(row) for row in range(first, first + 60))


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
