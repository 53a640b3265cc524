"""`ccd predict` and its Python twin on a small student: every output, bad files, continuation, boxes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from ccd.artifacts import checkpoint_file
from ccd.artifacts.files import csv_line
from ccd.cli.main import main
from ccd.deploy import outputs, predict_run, rows, stream
from ccd.deploy.classifier import TorchClassifier
from ccd.deploy.load import load_student
from ccd.errors import CcdError
from ccd.images.decode import read_image, squash
from ccd.student.model import StudentSpec, restore_student
from ccd.student.transforms import to_unit
from tests.toys.deployed import CLASSES, write_photos, write_student

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("model") / "student.pt")


@pytest.fixture()
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Five pictures under ``photos``, seen from the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_photos(Path("photos"))


def invoke(*words: object, stdin: str = "") -> Result:
    done = CliRunner().invoke(main, ["predict", *map(str, words)], input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def by_hand(model: Path, paths: list[Path]) -> np.ndarray:
    """Each picture alone, without any of the code under test."""
    found = checkpoint_file.read(model, "train")
    student = restore_student(StudentSpec.from_dict(found.spec), found.weights["average"]).eval()
    import torch

    pixels = [torch.from_numpy(squash(read_image(path), 64, 64))[None] for path in paths]
    with torch.no_grad():
        return torch.cat([student(to_unit(one))[0].sigmoid() for one in pixels]).numpy()


def test_three_lines_of_python(model: Path, photos: list[Path]) -> None:
    student = load_student(model)
    table = student.predict(photos)
    expected = by_hand(model, photos)
    assert list(table.columns) == ["labels", "cat", "path_", "-dog"] and list(table.index) == [str(p) for p in photos]
    np.testing.assert_allclose(table[["cat", "path_", "-dog"]].to_numpy(), expected, atol=1e-5)
    assert table["cat"].dtype == np.float32 and expected[:, 0].std() > 0.01
    decided = expected >= [0.5, 0.25, 0.999]
    assert table["labels"].tolist() == [[CLASSES[place] for place in np.flatnonzero(row)] for row in decided]
    pictures = student.predict([read_image(path) for path in photos])
    np.testing.assert_array_equal(pictures["cat"], table["cat"])
    assert list(pictures.index)[:2] == ["image 0", "image 1"]


def test_python_with_one_image_another_threshold_and_bad_files(model: Path, photos: list[Path]) -> None:
    student = load_student(model, batch_size=2)
    assert student.predict(photos[0], threshold=0.0)["labels"].tolist() == [list(CLASSES)]
    assert student.predict([photos[0], photos[1]], threshold=1.0)["labels"].tolist() == [[], []]
    assert student.predict([]).shape == (0, 4)
    bad = Path("bad.jpg")
    bad.write_bytes(b"no image")
    with pytest.raises(CcdError, match=r"bad\.jpg: not an image"):
        student.predict([photos[0], bad])
    with pytest.warns(UserWarning, match="bad.jpg"):
        assert len(student.predict([bad, photos[0]], skip_bad=True)) == 1
    with pytest.raises(CcdError, match="not both"):
        student.predict([photos[0], Image.new("RGB", (3, 3))])


def test_every_format_says_the_same(model: Path, photos: list[Path]) -> None:
    expected = load_student(model).predict([*photos[::2], *photos[1::2]])
    expected.index = expected.index.map(lambda name: name)
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        assert invoke(model, "photos", "--out", name, "--workers", 0).exit_code == 0
    table = pd.read_csv("out.csv", keep_default_na=False)
    assert list(table.columns) == ["path", "labels", "cat", "path_", "'-dog"], "a formula is shown, not calculated"
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    stored = pd.read_parquet("out.parquet")
    assert sorted(table["path"]) == sorted(expected.index)
    for row, line, (_, kept) in zip(table.itertuples(), lines, stored.iterrows(), strict=True):
        known = expected.loc[row.path]
        assert line["path"] == kept["path"] == row.path
        assert line["labels"] == list(kept["labels"]) == known["labels"] == row.labels.split(";")
        assert [np.float32(v) for v in line["probs"].values()] == list(kept[["cat", "path_", "-dog"]])
        assert np.float32(row.cat) == kept["cat"] == pytest.approx(known["cat"], abs=1e-5)
    assert json.loads(pq.read_schema("out.parquet").metadata[b"classes"]) == list(CLASSES)
    assert not list(Path().glob("*.partial"))


def test_stdin_stdout_and_another_threshold(model: Path, photos: list[Path]) -> None:
    listed = "".join(f"{path}\n" for path in photos[:2])
    done = invoke(model, "-", "--threshold", 0, "--workers", 0, stdin=listed)
    table = list(csv.reader(io.StringIO(done.stdout)))
    assert done.exit_code == 0
    assert [row[0] for row in table[1:]] == [str(path) for path in photos[:2]]
    assert all(row[1] == "cat;path;-dog" for row in table[1:])
    done = invoke(model, photos[0], "--format", "jsonl")
    assert json.loads(done.stdout)["path"] == str(photos[0])


def test_bad_files_are_named_skipped_and_tell_in_the_exit_status(model: Path, photos: list[Path]) -> None:
    Path("photos/empty.jpg").touch()
    Path("photos/page.jpg").write_text("<html></html>")
    Path("photos/cut.png").write_bytes(photos[0].read_bytes()[:200])
    done = invoke(model, "photos", "--out", "out.jsonl", "--json", "--workers", 0, "--batch-size", 2)
    assert done.exit_code == 3
    summary = json.loads(done.stdout)
    assert summary["images"] == 5 and summary["out"] == "out.jsonl"
    assert [Path(each["path"]).name for each in summary["skipped"]] == ["cut.png", "empty.jpg", "page.jpg"]
    assert all(each["path"] in done.stderr for each in summary["skipped"])
    kept = {json.loads(line)["path"] for line in Path("out.jsonl").read_text().splitlines()}
    assert kept == {str(path) for path in photos}
    done = invoke(model, "-", "--out", "gone.csv", stdin="photos/gone.jpg\nphotos/0.png\n")
    assert done.exit_code == 3 and "photos/gone.jpg: cannot be read" in done.stderr
    assert len(pd.read_csv("gone.csv")) == 1


def test_names_that_are_not_utf8_are_skipped_like_damaged_files(model: Path, photos: list[Path]) -> None:
    name = b"photos/\xff.png"
    try:
        photos[0].rename(os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes no such names")
    done = CliRunner().invoke(main, ["predict", str(model), "-", "--out", "out.csv", "--json"], input=name + b"\n")
    assert done.exit_code == 3 and "not valid UTF-8" in done.stderr
    assert len(json.loads(done.stdout)["skipped"]) == 1 and len(pd.read_csv("out.csv")) == 0


def test_what_cannot_be_written_is_one_message(model: Path, photos: list[Path]) -> None:
    Path("file").touch()
    done = invoke(model, "photos", "--out", "file/out.csv", "--workers", 0)
    assert done.exit_code == 2 and "file" in done.stderr and "Traceback" not in done.stderr


def test_only_bad_files_still_give_a_whole_output(model: Path, photos: list[Path]) -> None:
    Path("bad.jpg").touch()
    for name in ("out.csv", "out.parquet"):
        assert invoke(model, "bad.jpg", "--out", name).exit_code == 3
    assert pd.read_csv("out.csv").shape == (0, 5) and pd.read_parquet("out.parquet").shape == (0, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nope.pt", "photos"), "nope.pt: "),
        (("photos", "photos"), "no model.safetensors with a model.json"),
        (("photos/0.png", "photos"), "no model; give a checkpoint"),
        (("MODEL", "nowhere/*.jpg"), "no such file, folder or match: nowhere/*.jpg"),
        (("MODEL", "photos", "--out", "out.txt"), "must end in .csv, .jsonl or .parquet"),
        (("MODEL", "photos", "--resume"), "--resume and --json need --out"),
        (("MODEL", "photos", "--format", "parquet"), "Parquet cannot be written to standard output"),
        (("MODEL", "photos", "--device", "tpu"), "'tpu' is not auto, cpu, cuda or cuda:1"),
        (("MODEL", "photos", "--device", "cuda:99"), "CUDA devices; use auto or cpu"),
        (("MODEL", "empty"), "no images in empty"),
    ],
)
def test_mistakes_are_one_message_and_write_nothing(
    model: Path, photos: list[Path], words: tuple[str, ...], message: str
) -> None:
    Path("empty").mkdir()
    before = sorted(Path().rglob("*"))
    done = invoke(*(model if word == "MODEL" else word for word in words), "--workers", 0)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert sorted(Path().rglob("*")) == before


def test_an_interrupted_run_continues_without_doing_anything_twice(
    model: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_run, "IMAGES_PER_PIECE", 2)
    how = ("photos", "--workers", 0, "--batch-size", 1, "--cam", "seen")
    assert invoke(model, *how, "--out", "whole.csv").exit_code == 0
    whole_boxes = Path("seen/boxes.parquet").read_bytes()
    original = outputs.localize
    localized = []

    def stop_at_the_fourth(*args: object) -> outputs.Localized:
        localized.append(args[0].paths[0])  # type: ignore[attr-defined]
        if len(localized) == 4:
            raise KeyboardInterrupt
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "localize", stop_at_the_fourth)
    done = invoke(model, *how, "--out", "out.csv", "--force")  # --cam's folder is that of the first run
    assert done.exit_code == 130 and "interrupted" in done.stderr and not Path("out.csv").exists()
    done = invoke(model, *how, "--out", "out.csv")
    assert done.exit_code == 2 and "continue it with --resume, or start over with --force" in done.stderr
    done = invoke(model, *how, "--out", "out.csv", "--resume", "--threshold", 0.5)
    assert done.exit_code == 2 and "begun with another threshold" in done.stderr
    done = invoke(model, *how, "--out", "out.csv", "--resume", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"out": "out.csv", "images": 5, "resumed": 2, "skipped": [], "left_out": {}}
    assert len(localized) == 4 + 3, "the first two images are not done again"
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert Path("seen/boxes.parquet").read_bytes() == whole_boxes
    assert not list(Path().rglob("*.partial"))
    done = invoke(model, *how, "--out", "out.csv", "--resume")
    assert done.exit_code == 0 and "out.csv is complete" in done.stderr and len(localized) == 7


def test_workers_and_batch_size_change_no_label(model: Path, photos: list[Path]) -> None:
    tables = []
    for words in (("--workers", 0), ("--workers", 2, "--batch-size", 2, "--force")):
        assert invoke(model, "photos", "--out", "out.parquet", *words).exit_code == 0
        tables.append(pd.read_parquet("out.parquet"))
    assert tables[0]["path"].tolist() == tables[1]["path"].tolist()
    np.testing.assert_allclose(tables[0]["cat"], tables[1]["cat"], atol=1e-5)


def test_boxes_lie_in_the_image_and_overlays_have_its_size(model: Path, photos: list[Path]) -> None:
    assert invoke(model, "photos", "--threshold", 0, "--cam", "seen", "--workers", 0).exit_code == 0
    boxes = pd.read_parquet("seen/boxes.parquet")
    assert boxes.groupby("path")["class"].nunique().tolist() == [3] * 5
    for path in photos:
        picture = Image.open(path)
        mine = boxes[boxes["path"] == str(path)]
        assert (mine["x1_px"] <= picture.width).all() and (mine["y1_px"] <= picture.height).all()
        assert (mine[["x0_px", "y0_px"]] >= 0).all(axis=None) and (mine["x1_px"] > mine["x0_px"]).all()
        overlay = Image.open(f"seen/{path.relative_to('photos')}.jpg")
        assert overlay.size == picture.size and overlay.format == "JPEG"
        assert np.abs(np.asarray(overlay, float) - np.asarray(picture, float)).mean() > 5
    assert invoke(model, "photos", "--threshold", 1, "--cam", "none").exit_code == 0
    assert len(pd.read_parquet("none/boxes.parquet")) == 0


def test_an_overlay_never_leaves_its_folder() -> None:
    root = Path("/a")
    names = [
        outputs.overlay_name(Path(path), root) for path in ("/a/b/../../x.jpg", "/a/x.jpg", "/a/x.png", "/a/b/x.jpg")
    ]
    assert len(set(names)) == 4 and not any(".." in name.parts or name.is_absolute() for name in names)


def test_inputs_are_taken_once_and_in_order(photos: list[Path]) -> None:
    found = stream.expand(["photos/4.png", "photos", "photos/**/*.png", "-"], ["photos/0.png\n", "not there\n", "\n"])
    assert found.paths == [
        Path(f"photos/{name}") for name in ("4.png", "0.png", "2.png", "deep/er/1.png", "deep/er/3.png")
    ] + [Path("not there")]


def test_what_folders_hold_beside_images_is_counted(model: Path, photos: list[Path]) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for name, data in (("a.mp4", b"x"), ("b.MP4", b"x"), ("c.pdf", b"x"), ("labels.csv", b"x"), ("deep/d.avi", heic)):
        Path("photos", name).write_bytes(data)
    photos[0].rename("photos/scan")
    Image.open("photos/scan").convert("RGB").save("photos/scan", "JPEG")
    done = invoke(model, "photos", "--out", "out.jsonl", "--json", "--workers", 0)
    assert done.exit_code == 0 and json.loads(done.stdout)["images"] == 5
    assert json.loads(done.stdout)["left_out"] == {".mp4": 2, ".avi": 1, ".pdf": 1}
    assert "left out: 2 .mp4, 1 .avi, 1 .pdf" in done.stderr
    done = invoke(model, "photos/c.pdf", "--out", "out.csv")
    assert done.exit_code == 3 and "photos/c.pdf: not an image" in done.stderr
    Path("films").mkdir()
    Path("films/a.mkv").touch()
    done = invoke(model, "films")
    assert done.exit_code == 2 and "no images in films" in done.stderr and "1 .mkv" in done.stderr


def test_a_pattern_loses_nothing_without_a_word(photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photos/gone.png").symlink_to("nowhere")
    found = stream.expand(["photos/*"], [])
    assert Path("photos/gone.png") in found.paths and len(found.paths) == 4 and found.left_out == {"(folder)": 1}
    assert stream.expand(["photos/**/*"], []).left_out == {}
    with pytest.raises(CcdError, match=r"no images in photos/d\*; .*1 \(folder\)"):
        stream.expand(["photos/d*"], [])
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("er"))  # root may open everything
    for pattern in ("photos/**/*.png", "photos/*/*/*.png", "photos/**"):
        assert Path("photos/deep/er") in stream.expand([pattern], []).paths, pattern


def test_a_folder_without_permission_is_skipped_and_named(
    model: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.scandir

    def refuse(path: str | Path) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "scandir", refuse)
    done = invoke(model, "photos", "--out", "out.csv", "--workers", 0)
    assert done.exit_code == 3 and "photos/deep: cannot be read (Permission denied)" in done.stderr
    assert len(pd.read_csv("out.csv")) == 3


def test_pillow_images_of_every_kind_are_read_like_their_files(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    colours = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 4), np.uint8))
    colours.save(tmp_path / "clear.png")
    colours.convert("RGB").resize((40, 60)).save(tmp_path / "turned.png", exif=exif)
    paths = sorted(tmp_path.glob("*.png"))
    student = load_student(model)
    expected = student.predict(paths)
    opened = student.predict([Image.open(path) for path in paths])
    np.testing.assert_array_equal(opened.to_numpy()[:, 1:], expected.to_numpy()[:, 1:])
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "clear.png").read_bytes()[:900])
    with Image.open(cut) as broken, pytest.raises(CcdError, match="image 1: damaged or truncated"):
        student.predict([Image.open(paths[0]), broken])


@pytest.mark.parametrize(("device", "expected"), [("cpu", "srsrsr"), ("cuda", "ssrsrr")])
def test_a_gpu_has_the_next_batch_before_results_are_read(
    device: str, expected: str, model: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """s: the pass over a batch is started; r: its results are read."""
    events = []
    start = TorchClassifier.start

    def noting(self: TorchClassifier, pixels: Any) -> Callable[[], Any]:
        self.device = torch.device("cpu")
        finish = start(self, pixels)
        self.device = torch.device(device)
        events.append("s")
        return lambda: [events.append("r"), finish()][1]

    monkeypatch.setattr(TorchClassifier, "start", noting)
    student = load_student(model, batch_size=2)
    student._classifier.device = torch.device(device)  # type: ignore[attr-defined]
    table = student.predict(photos)
    assert "".join(events) == expected and table.index.tolist() == [path.as_posix() for path in photos]


def test_columns_are_unique_whatever_classes_are_called() -> None:
    assert rows.class_columns(["path", "path_", "labels", "cat"]) == ["path__", "path_", "labels_", "cat"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_cells_that_a_spreadsheet_would_calculate_are_neutralised(start: str) -> None:
    assert next(csv.reader(io.StringIO(csv_line([f"{start}1+1", 0.5]), newline=""))) == [f"'{start}1+1", "0.5"]


def test_a_student_without_thresholds_decides_at_one_half(tmp_path: Path) -> None:
    student = load_student(write_student(tmp_path / "student.pt", thresholds=None))
    assert student.description.thresholds == (0.5, 0.5, 0.5) and student.description.thresholds_from == "0.5"


@pytest.mark.slow
def test_neither_clip_nor_params_yaml_is_needed(model: Path, photos: list[Path]) -> None:
    code = (
        "import sys; from ccd.cli.main import main\n"
        f"main(['predict', {str(model)!r}, 'photos', '--out', 'out.csv', '--workers', '0'], standalone_mode=False)\n"
        "sys.exit(any(name.split('.')[0] in ('clip', 'open_clip') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
