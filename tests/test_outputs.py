"""Where commands may write: not over what they read, not among images, and over what is there on request alone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import threading
from pathlib import Path

import pytest

from ccd.cli.overlay_command import overlay_name
from ccd.deploy import predict_run, rows
from ccd.params.presets import apply_preset
from tests.toys.commands import PREDICT, TUNE, a_model, contents, invoke, labelled_photos
from tests.toys.finished_run import write_project


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_projects_readme_is_no_model_card() -> None:
    """Not even --force throws it away; a card of ours is replaced without a copy."""
    a_model()
    Path("work").mkdir()
    Path("work/README.md").write_text("# Image classifier of birds\n\nMy notes of three months.\n")
    export = ("export", "model", "work", "--student", "student.pt")
    done = invoke(*export)
    assert done.exit_code == 2 and "work/README.md" in done.stderr and "--force" in done.stderr
    assert [path.name for path in Path("work").iterdir()] == ["README.md"]
    done = invoke(*export, "--force")
    assert done.exit_code == 0 and "README.md.bak" in done.stdout
    assert "three months" in Path("work/README.md.bak").read_text()
    assert invoke(*export, "--force").exit_code == 0
    names = ["README.md", "README.md.bak", "model.json", "model.safetensors"]
    assert sorted(path.name for path in Path("work").iterdir()) == names


def test_weights_and_descriptions_of_others_are_kept_too() -> None:
    a_model()
    Path("work").mkdir()
    Path("work/model.json").write_text('{"vertices": []}')
    Path("work/model.safetensors").write_bytes(b"weights of another tool")
    assert invoke("export", "model", "work", "--student", "student.pt", "--force").exit_code == 0
    assert Path("work/model.json.bak").read_text() == '{"vertices": []}'
    assert Path("work/model.safetensors.bak").read_bytes() == b"weights of another tool"


def test_a_model_is_not_exported_into_the_folder_of_its_checkpoint() -> None:
    a_model()
    for words in ((), ("--force",)):
        done = invoke("export", "model", ".", "--student", "student.pt", *words)
        assert done.exit_code == 2 and "folder of its own" in done.stderr and not Path("model.json").exists()


def test_the_tuned_model_lies_in_the_working_directory() -> None:
    labelled_photos()
    Path("data/toy").mkdir(parents=True)
    shutil.move("student.pt", "data/toy/student.pt")
    shutil.move("model", "data/toy/model.v1")
    for model, tuned in (("data/toy/student.pt", "student.tuned.pt"), ("data/toy/model.v1", "model.v1.tuned")):
        done = invoke("thresholds", model, *TUNE)
        assert done.exit_code == 0 and done.stdout.splitlines()[-1].startswith(f"now run: ccd predict {tuned} photos")
        assert invoke("predict", tuned, "photos", "--workers", "0").exit_code == 0
    assert sorted(path.name for path in Path("data/toy").iterdir()) == ["model.v1", "student.pt"]


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "student.pt", "photos", "--out", "student.pt", "--format", "csv"),
        ("predict", "model", "photos", "--out", "model/model.json", "--format", "jsonl"),
        ("predict", "student.pt", "photos", "--out", "link.csv"),
        ("predict", "student.pt", "photos", "--out", "photos/0.png", "--format", "csv"),
        ("predict", "student.pt", "photos", "--out", "photos/new.PNG", "--format", "csv"),
        ("predict", "student.pt", "photos", "--cam", "photos"),
        ("predict", "student.pt", "photos/0.png", "--cam", "photos"),
        ("predict", "student.pt", "photos", "--cam", "photos/deep"),
        ("predict", "student.pt", "photos", "--cam", "seen", "--out", "seen/boxes.parquet"),
        ("thresholds", "student.pt", *TUNE, "--out", "student.pt"),
        ("thresholds", "student.pt", *TUNE, "--out", "checked.csv"),
        ("thresholds", "model", *TUNE, "--out", "./model"),
        ("thresholds", "model", *TUNE, "--out", "same_model"),
        ("export", "onnx", "student.onnx", "--student", "student.onnx"),
    ],
    ids=" ".join,
)
def test_an_input_is_never_written_over(words: tuple[str, ...]) -> None:
    """Under none of its names, with --force or without; nor are outputs put where they would be taken for inputs."""
    labelled_photos()
    Path("link.csv").symlink_to("student.pt")
    Path("same_model").symlink_to("model")
    shutil.copy("student.pt", "student.onnx")
    before = contents()
    for force in ((), ("--force",)):
        done = invoke(*words, *force)
        assert done.exit_code == 2 and done.stderr.startswith("error: "), done.output
        assert contents() == before


def test_overlays_below_a_folder_of_images_are_allowed_once_and_warned_of() -> None:
    a_model()
    done = invoke("predict", "student.pt", ".", "--cam", "seen", "--out", "said.csv", "--workers", "0")
    assert done.exit_code == 0 and "note: --cam seen" in done.stderr
    done = invoke("predict", "student.pt", ".", "--cam", "seen", "--out", "2.csv", "--workers", "0", "--force")
    assert done.exit_code == 2 and "images to label lie there" in done.stderr, "overlays of overlays"


def test_labels_beside_images_are_not_left_to_be_taken_for_ground_truth() -> None:
    write_project()
    Path("data/toy/labels.csv").write_text("path,classes\ntrain/a.jpg,cup\n")
    for force in ((), ("--force",)):
        done = invoke("export", "labels", "data/toy", "--format", "csv", *force)
        assert done.exit_code == 2 and "ground truth" in done.stderr
    assert Path("data/toy/labels.csv").read_text().endswith("a.jpg,cup\n")
    a_model()
    done = invoke(*PREDICT, "--out", "photos/labels.csv")
    assert done.exit_code == 0 and "note: photos/labels.csv" in done.stderr


def test_lists_that_the_pipeline_reads_are_not_replaced_even_with_force() -> None:
    write_project()
    Path("lists").mkdir()
    Path("lists/labels.csv").write_text("path,classes\n")
    settings = {"dataset.name": "toy", "index.labels_file": "lists/labels.csv"}
    Path("params.yaml").write_text(apply_preset("folder", "data/toy", settings))
    done = invoke("export", "labels", "lists", "--format", "csv", "--force")
    assert done.exit_code == 2 and Path("lists/labels.csv").read_text() == "path,classes\n"


def test_copied_images_replace_no_other_images() -> None:
    """The same content is no obstacle; other content is named before anything is written."""
    write_project()
    export = ("export", "labels", "out", "--format", "hf", "--copy-images")
    Path("out/train").mkdir(parents=True)
    shutil.copy("data/toy/train/a.jpg", "out/train/a.jpg")
    Path("out/train/b.jpg").write_bytes(b"my own")
    before = contents()
    done = invoke(*export)
    assert done.exit_code == 2 and "out/train/b.jpg" in done.stderr and "a.jpg" not in done.stderr
    assert contents() == before
    Path("out/train/b.jpg").unlink()
    assert invoke(*export).exit_code == 0 and Path("out/train/b.jpg").is_file()
    done = invoke("export", "labels", "data/toy/copies", "--format", "hf", "--copy-images", "--force")
    assert done.exit_code == 2 and not Path("data/toy/copies").exists(), "the next index would find every image twice"


def test_labels_may_be_written_into_the_folder_of_images_where_they_serve() -> None:
    write_project()
    before = contents()
    assert invoke("export", "labels", "data/toy", "--format", "hf", "--copy-images").exit_code == 0
    assert contents().keys() - before.keys() == {Path("data/toy/metadata.jsonl")}


def interrupted(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Run predict, one image a piece, until the second image."""
    with monkeypatch.context() as patch:
        original = rows.table
        done = []

        def stop_at_the_second(*args: object) -> object:
            done.append(args)
            if len(done) == 2:
                raise KeyboardInterrupt
            return original(*args)  # type: ignore[arg-type]

        patch.setattr(predict_run, "IMAGES_PER_PIECE", 1)
        patch.setattr(rows, "table", stop_at_the_second)
        assert invoke(*PREDICT, "--batch-size", "1", *words).exit_code == 130


def test_unfinished_predictions_are_continued_or_given_up_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    a_model()
    interrupted(monkeypatch, "--out", "said.csv")
    before = contents()
    done = invoke(*PREDICT, "--out", "said.csv")
    assert done.exit_code == 2 and "--resume" in done.stderr and "--force" in done.stderr and contents() == before
    done = invoke(*PREDICT, "--out", "said.csv", "--resume", "--force")
    assert done.exit_code == 2 and contents() == before
    done = invoke(*PREDICT, "--out", "said.csv", "--force")
    assert done.exit_code == 0 and len(Path("said.csv").read_text().splitlines()) == 4
    assert not Path("said.csv.partial").exists()


def test_a_file_that_appeared_while_a_run_was_interrupted_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    a_model()
    interrupted(monkeypatch, "--out", "said.csv")
    Path("said.csv").write_text("my own")
    done = invoke(*PREDICT, "--out", "said.csv", "--resume")
    assert done.exit_code == 0 and "said.csv.bak" in done.stderr
    assert Path("said.csv.bak").read_text() == "my own" and Path("said.csv").read_text().startswith("path,labels")


@pytest.mark.parametrize("words", [(), ("--out", "other.csv"), ("--out", "other.csv", "--resume")], ids=" ".join)
def test_unfinished_boxes_are_not_thrown_away_by_another_run(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_model()
    interrupted(monkeypatch, "--out", "said.csv", "--cam", "seen")
    before = contents()
    done = invoke(*PREDICT, "--cam", "seen", *words)
    assert done.exit_code == 2 and "seen/boxes.parquet.partial" in done.stderr and contents() == before
    done = invoke(*PREDICT, "--cam", "seen", "--out", "said.csv", "--resume")
    assert done.exit_code == 0 and sorted(path.name for path in Path("seen").glob("*.jpg")) == [
        "0.png.jpg",
        "2.png.jpg",
    ]


def test_boxes_that_are_lost_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    a_model()
    interrupted(monkeypatch, "--out", "said.csv", "--cam", "seen")
    shutil.rmtree("seen/boxes.parquet.partial")
    done = invoke(*PREDICT, "--cam", "seen", "--out", "said.csv", "--resume")
    assert done.exit_code == 2 and "boxes.parquet.partial" in done.stderr and "--force" in done.stderr


def test_a_folder_of_ones_own_is_no_unfinished_work(monkeypatch: pytest.MonkeyPatch) -> None:
    a_model()
    Path("said.csv.partial").mkdir()
    Path("said.csv.partial/notes.parquet").write_text("mine")
    for words in ((), ("--force",), ("--resume",)):
        done = invoke(*PREDICT, "--out", "said.csv", *words)
        assert done.exit_code == 2 and "said.csv.partial" in done.stderr
    assert Path("said.csv.partial/notes.parquet").read_text() == "mine"
    interrupted(monkeypatch, "--out", "2.csv")
    Path("2.csv.partial/notes.txt").write_text("mine")
    assert invoke(*PREDICT, "--out", "2.csv", "--resume").exit_code == 0
    assert [path.name for path in Path("2.csv.partial").iterdir()] == ["notes.txt"]


def test_the_story_is_told_whatever_lies_at_the_overlays_place() -> None:
    write_project()
    assert "wrote a.overlay.png" in invoke("inspect", "train/a").stdout
    done = invoke("inspect", "train/a")
    assert done.exit_code == 0 and done.stderr == "", "the same overlay is no obstacle"
    Path("a.overlay.png").write_text("my own")
    done = invoke("inspect", "train/a")
    assert done.exit_code == 0 and "cup" in done.stdout
    assert "--force" in done.stderr and "--out" in done.stderr and Path("a.overlay.png").read_text() == "my own"
    done = invoke("inspect", "train/a", "--out", "a.overlay.png")
    assert done.exit_code == 2 and "cup" not in done.stdout
    assert invoke("inspect", "train/a", "--force").exit_code == 0
    assert Path("a.overlay.png").read_bytes().startswith(b"\x89PNG")


def test_an_overlay_is_not_left_among_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    write_project()
    done = invoke("inspect", "train/a", "--out", "data/toy/train/a.jpg", "--force")
    assert done.exit_code == 2 and "data/toy" in done.stderr
    Path("params.yaml").write_text(apply_preset("folder", ".", {"dataset.name": "toy"}))
    done = invoke("inspect", "train/a")
    assert done.exit_code == 0 and "--out" in done.stderr and not Path("a.overlay.png").exists()


def test_images_of_one_name_do_not_share_an_overlay() -> None:
    ids = ["cats/a", "dogs/a", "cats_a", "dogs_a/b", "dogs/a/b", "c", "v1.0", "v1.1"]
    names = [overlay_name(each, ids) for each in ids]
    assert len(set(names)) == len(ids) and not any("/" in name for name in names)
    assert names[5:] == ["c.overlay.png", "v1.0.overlay.png", "v1.1.overlay.png"]
    assert overlay_name("cats/a", ids[:2]) == "cats_a.overlay.png"


def test_answers_go_through_a_pipe_and_leave_nothing_beside_it() -> None:
    """Without an ending to tell the format by, as to standard output."""
    a_model()
    os.mkfifo("pipe")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(Path("pipe").read_text()))
    reader.start()
    done = invoke(*PREDICT, "--out", "pipe")
    reader.join(10)
    assert done.exit_code == 0 and len(received[0].splitlines()) == 4
    assert not Path("pipe.partial").exists() and Path("pipe").is_fifo()
    for words in (("--resume",), ("--json",), ("--format", "parquet")):
        done = invoke(*PREDICT, "--out", "pipe", *words)
        assert done.exit_code == 2 and "--out FILE" in done.stderr


def test_what_is_written_ends_with_the_command_to_go_on_with() -> None:
    """Which can be pasted whatever the name; programs are told nothing but JSON."""
    labelled_photos()
    export = ("export", "model", "my model", "--student", "student.pt")
    tune = ("thresholds", "student.pt", *TUNE, "--out", "it's tuned.pt")
    for words, name in ((export, "my model"), (tune, "it's tuned.pt")):
        last = invoke(*words).stdout.splitlines()[-1]
        assert shlex.split(last.removeprefix("now run: "))[:3] == ["ccd", "predict", name]
        assert isinstance(json.loads(invoke(*words, "--force", "--json").stdout), dict)
    write_project()
    assert "labels.csv" in invoke("export", "labels", "out", "--format", "csv").stdout.splitlines()[-1]
