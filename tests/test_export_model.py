"""Exported models: the folder, the card, the ONNX file; all of them say what the checkpoint says."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ccd.artifacts import checkpoint_file
from ccd.deploy import classifier, onnx_export
from ccd.deploy.load import load_student
from ccd.deploy.model_card import model_card, read_facts
from ccd.errors import CcdError
from ccd.student.model import StudentSpec, build_student
from tests.toys.commands import invoke
from tests.toys.deployed import CLASSES, write_photos, write_student
from tests.toys.finished_run import EVIL, write_run

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "model.json", "model.safetensors")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "student.pt")


@pytest.fixture(scope="module")
def folder(student: Path) -> Path:
    out = student.parent / "model"
    assert invoke("export", "model", out, "--student", student, "--licence", "CC0-1.0").exit_code == 0
    return out


@pytest.fixture(scope="module")
def onnx(student: Path) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = invoke("export", "onnx", student.parent / "student.onnx", "--student", student, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["largest_difference"] <= 1e-4
    return student.parent / "student.onnx"


def test_the_folder_holds_the_selected_weights_and_says_how_to_use_them(student: Path, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == list(FILES)
    weights = load_file(folder / "model.safetensors")
    found = checkpoint_file.read(student, "train")
    assert weights.keys() == found.weights["average"].keys()
    assert all(torch.equal(weights[name], found.weights["average"][name]) for name in weights)
    content = json.loads((folder / "model.json").read_text())
    assert content["schema"] == "ccd.model/1" and content["classes"] == list(CLASSES)
    assert content["thresholds"] == {"source": "pseudo-labels", "values": [0.5, 0.25, 0.999]}
    assert content["preprocessing"]["image_size_px"] == 64 and content["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert (content["backbone"], content["cam_boost"], content["licence"]) == ("mobilenet_v2", 3.0, "CC0-1.0")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert content["sha256"] == {"model.safetensors": digest}
    assert content["provenance"]["source_sha256"] == hashlib.sha256(student.read_bytes()).hexdigest()


def test_the_same_student_gives_the_same_bytes(student: Path, folder: Path, tmp_path: Path) -> None:
    assert invoke("export", "model", tmp_path, "--student", student, "--licence", "CC0-1.0").exit_code == 0
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


@pytest.mark.slow
def test_checkpoint_folder_and_onnx_agree(student: Path, folder: Path, onnx: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path)
    first, second, third = (load_student(path) for path in (student, folder, onnx))
    expected = first.predict(photos)
    np.testing.assert_array_equal(second.predict(photos)["cat"], expected["cat"])
    for name in expected.columns[1:]:
        np.testing.assert_allclose(third.predict(photos)[name], expected[name], atol=1e-4)
    assert third.predict(photos)["labels"].tolist() == expected["labels"].tolist()
    assert replace(third.description, licence="") == replace(second.description, licence="")
    done = invoke("predict", onnx, tmp_path, "--out", tmp_path / "out.csv", "--cam", tmp_path / "seen")
    assert done.exit_code == 0 and (tmp_path / "seen/boxes.parquet").is_file()


@pytest.mark.slow
def test_onnx_takes_any_batch_and_size_and_holds_no_path_of_this_machine(onnx: Path) -> None:
    session = classifier.onnx_session(onnx, "cpu")
    for images, height, width in ((1, 64, 64), (5, 96, 160), (2, 33, 200)):
        logits, cam = session.run(None, {"pixels": np.full((images, 3, height, width), 0.5, np.float32)})
        assert logits.shape == (images, 3) and cam.shape == (images, 3, -(-height // 32), -(-width // 32))
        np.testing.assert_allclose(cam.mean(axis=(2, 3)), logits, atol=1e-5)
    content = onnx.read_bytes()
    assert not any(word in content for word in (str(ROOT).encode(), str(onnx.parent).encode(), b"site-packages"))


@pytest.mark.slow
def test_the_documented_script_gives_what_ccd_gives(student: Path, onnx: Path, tmp_path: Path) -> None:
    """On a large JPEG, a turned one and one with transparency; it must not import ccd or PyTorch."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    picture = Image.fromarray(noise).resize((600, 500))
    exif = Image.Exif()
    exif[274] = 6
    picture.save(tmp_path / "large.jpg")
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.putalpha(100)
    picture.save(tmp_path / "alpha.png")
    paths = sorted(tmp_path.iterdir())
    code = (
        f"import runpy, sys; sys.argv = ['x', {str(onnx)!r}, *{[str(path) for path in paths]!r}]\n"
        f"runpy.run_path({str(ROOT / 'docs/onnx_predict.py')!r}, run_name='__main__')\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'ccd')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    table = load_student(student).predict(paths)
    for line, (_, row) in zip(done.stdout.splitlines(), table.iterrows(), strict=True):
        said = json.loads(line)
        np.testing.assert_allclose(list(said["probs"].values()), row.iloc[1:].astype(float), atol=1e-4)
        assert said["labels"] == row["labels"]


def test_a_file_that_differs_from_torch_is_not_kept(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx_export, "parity", lambda *args: float("nan"))
    monkeypatch.setattr(onnx_export, "onnx_session", lambda *args: None)
    monkeypatch.setattr(onnx_export, "onnx_model", lambda *args: __import__("onnx").ModelProto())
    done = invoke("export", "onnx", tmp_path / "student.onnx", "--student", student)
    assert done.exit_code == 2 and "differs from PyTorch" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), "no model.safetensors with a model.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "its SHA-256 is .*model.json"),
        (lambda folder: edit(folder, schema="other/1"), "its schema is 'other/1'"),
        (lambda folder: edit(folder, thresholds={"source": "x", "values": [1.0]}), "1 thresholds for 3 classes"),
        (lambda folder: edit(folder, backbone="resnet18"), "do not belong to a resnet18"),
    ],
)
def test_a_damaged_folder_is_refused(damage: object, message: str, student: Path, folder: Path, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(CcdError, match=message):
        load_student(tmp_path)


def edit(folder: Path, **changed: object) -> None:
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | changed))


def test_files_that_are_no_onnx_model_of_ccd_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_bytes(b"nonsense")
    with pytest.raises(CcdError, match="onnxruntime cannot read it"):
        load_student(tmp_path / "a.onnx")
    with pytest.raises(CcdError, match=r"b\.onnx: no such file"):
        load_student(tmp_path / "b.onnx")
    onnx = pytest.importorskip("onnx")
    pixels = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["pixels"], ["other"])], "g", [pixels], [other])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "c.onnx",
    )
    with pytest.raises(CcdError, match="not exported by ccd"):
        load_student(tmp_path / "c.onnx")


def test_with_a_gpu_and_the_onnxruntime_of_cpus_auto_is_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    (tmp_path / "a.onnx").write_bytes(b"nonsense")
    with pytest.raises(CcdError, match="onnxruntime cannot read it"):
        load_student(tmp_path / "a.onnx")
    with pytest.raises(CcdError, match="no CUDAExecutionProvider; install onnxruntime-gpu, or use --device cpu"):
        load_student(tmp_path / "a.onnx", device="cuda")


def write_finished_student(folder: Path) -> Path:
    """A whole finished run, and a student of its three classes."""
    write_run(folder)
    classes = ("cup", "tall lamp", EVIL)
    spec = StudentSpec("mobilenet_v3_small", classes, 1.0, 32)
    info = {"epochs": 3, "thresholds": {"values": [0.5, 0.5, 0.5], "source": "pseudo-labels"}}
    weights = {"last": build_student(spec, "none", 0).state_dict()}
    checkpoint_file.write(folder / "student.pt", checkpoint_file.Checkpoint(spec.to_dict(), weights, "last", info))
    return folder / "student.pt"


def test_the_card_says_what_the_artifacts_say(tmp_path: Path) -> None:
    facts, _ = read_facts(write_finished_student(tmp_path), "not stated", tmp_path / "no.lock")
    card = model_card(facts)
    provenance = facts.description.provenance
    assert provenance["teacher"] == "toy clip" and provenance["images"] == {"train": 4, "test": 2}
    assert "| mAP, this model | 30.0 |" in card and "| mAP, CLIP zero-shot | 40.0 |" in card
    assert "| mAP, linear head on CLIP's features | 35.0 |" in card
    assert "On 2 labelled test images, mean over 1 classes" in card
    assert "| cup | 0.500 | 75.0% | 30.0 |" in card, "three of the four training images are labelled with it"
    assert "Test AP is below 50 % for: cup." in card
    assert EVIL not in card and "&lt;script&gt;" in card
    assert "Not stated." in card and "Not measured" not in card


def test_a_card_without_measurements_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, labelled=False)
    facts, _ = read_facts(write_finished_student(tmp_path), "MIT", tmp_path / "no.lock")
    assert "30.0" in model_card(facts)
    (tmp_path / "metrics.json").unlink()
    facts, _ = read_facts(tmp_path / "student.pt", "MIT", tmp_path / "no.lock")
    card = model_card(facts)
    assert "**Not measured.**" in card and "30.0" not in card and "## Licence\n\nMIT" in card


def test_tuned_thresholds_go_into_a_copy(student: Path, folder: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    probs = load_student(student).predict(photos)["cat"].to_numpy()
    order = np.argsort(-probs)
    rows = [f"{photos[row].name},{'cat' if rank < 2 else ''}" for rank, row in enumerate(order)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,classes", *rows]) + "\n")
    before = student.read_bytes()
    for model, out in ((student, tmp_path / "new.pt"), (folder, tmp_path / "new")):
        how = ("--labels", tmp_path / "labels.csv", "--images", tmp_path / "photos", "--out", out)
        done = invoke("thresholds", model, *how, "--json")
        assert done.exit_code == 0, done.output
        cat, path, dog = json.loads(done.stdout)["classes"]
        expected = (float(probs[order[1]]) + float(probs[order[2]])) / 2
        assert (cat["images"], cat["f1"]) == (2, 1.0) and cat["threshold"] == pytest.approx(expected, abs=1e-6)
        assert (path["images"], path["threshold"], path["f1"]) == (0, 0.25, None) and dog["threshold"] == 0.999
        tuned = load_student(out)
        assert tuned.description.thresholds_from == "labelled images"
        decided = [("cat" in labels) for labels in tuned.predict([photos[row] for row in order])["labels"]]
        assert decided == [True, True, False, False, False]
    assert student.read_bytes() == before


@pytest.mark.parametrize("given", ["photos", "ABSOLUTE", "photos/../photos"])
def test_what_predict_wrote_can_be_corrected_and_tuned_on(
    given: str, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(Path("photos"))
    folder = given.replace("ABSOLUTE", str(tmp_path / "photos"))
    how = ("--threshold", 0.3, "--workers", 0)
    assert invoke("predict", student, folder, "--out", "said.csv", *how).exit_code == 0
    said = pd.read_csv("said.csv", keep_default_na=False)
    said.loc[:1, "labels"] = ["-dog;cat", "'-dog"]  # the second as a spreadsheet shows it
    said.to_csv("said.csv", index=False, sep=";")
    done = invoke("thresholds", student, "--labels", "said.csv", "--images", "photos", "--out", "new.pt", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    named = [cell.removeprefix("'").split(";") for cell in said["labels"]]
    counts = {each["class"]: each["images"] for each in content["classes"]}
    assert content["images"] == 5 and counts["-dog"] >= 2
    assert counts == {name: sum(name in cell for cell in named) for name in counts}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--labels", "no.csv", "--images", "photos"), "no.csv: no such file"),
        (("--labels", "labels.csv", "--images", "nowhere"), "nowhere: no such folder"),
        (("--labels", "labels.csv", "--images", "photos"), "unknown class cow"),
        (("--labels", "empty.csv", "--images", "photos"), "empty.csv has no rows"),
        (("--labels", "good.csv", "--images", "photos", "--out", "MODEL"), "is the model itself"),
    ],
)
def test_mistakes_in_tuning_are_one_message(
    words: tuple[str, ...], message: str, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(Path("photos"))
    Path("labels.csv").write_text("path,classes\n0.png,cow\n")
    Path("good.csv").write_text("path,classes\n0.png,cat\n")
    Path("empty.csv").write_text("path,classes\n")
    done = invoke("thresholds", student, *(student if word == "MODEL" else word for word in words))
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.shared
def test_real_photos_get_the_same_answers_from_all_three(shared_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    classes = tuple(f"thing {number}" for number in range(20))
    spec = StudentSpec("mobilenet_v2", classes, 3.0, 128)
    network = build_student(spec, shared_dir / "models/mobilenet_v2_imagenet.pt", seed=0)
    state = {"last": network.state_dict()}
    checkpoint_file.write(tmp_path / "student.pt", checkpoint_file.Checkpoint(spec.to_dict(), state, "last", {}))
    for words in (("model", tmp_path / "model"), ("onnx", tmp_path / "student.onnx")):
        assert invoke("export", *words, "--student", tmp_path / "student.pt").exit_code == 0
    photos = sorted((shared_dir / "data/coco_photos/val2014").glob("*.jpg"))[:100]
    assert len(photos) == 100
    tables = [
        load_student(tmp_path / name).predict(photos).drop(columns="labels").to_numpy()
        for name in ("student.pt", "model", "student.onnx")
    ]
    assert tables[0].std() > 0.01
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-4)
    np.testing.assert_allclose(tables[2], tables[0], atol=1e-4)
