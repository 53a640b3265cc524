"""`ccd preview`: what it finds, worked by hand, and that a misspelt class shows with the demo's own CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ccd.cli.main import main
from ccd.demo.scenes import render_scene, scene_rng
from ccd.images.decode import squash
from ccd.ui import preview
from ccd.ui.preview import BLOCK, look, nearest
from tests.toys.finished_run import EVIL
from tests.toys.pages import Page
from tests.toys.ui_project import DATA, ROOT, write_ui_project


def units(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_confused_never_first_and_surest() -> None:
    probs = np.array([[0.6, 0.4, 0.0], [0.5, 0.45, 0.05], [0.3, 0.7, 0.0], [0.9, 0.05, 0.05]], np.float32)
    seen = look(
        ["a", "b", "c"], probs, np.eye(4, dtype=np.float32), np.eye(3, 4, dtype=np.float32), np.zeros((3, 4)), 9.0
    )
    assert [each.top1 for each in seen.classes] == [3, 1, 0]
    assert seen.classes[0].rows.tolist() == [3, 0, 1, 2] and seen.classes[1].rows.tolist()[0] == 2
    assert [(pair.first, pair.second, pair.images, pair.example) for pair in seen.confused] == [("a", "b", 3, 1)]


def test_a_word_whose_surest_photos_are_no_surer_than_those_of_invented_ones_is_named() -> None:
    """Twelve of 42 photos are exactly what the word says (cosine 1), the others have nothing to do with it."""
    features = np.repeat(np.eye(2, 5, dtype=np.float32), [12, 30], axis=0)
    axes = np.eye(5, dtype=np.float32)
    control = np.stack([axes[2], axes[3], axes[1]])  # two mean nothing, one happens to mean the other photos
    probs = np.full((42, 3), 1 / 3, np.float32)
    seen = look(["there", "nowhere", "everywhere"], probs, features, axes[[0, 4, 1]], control, np.log(3))
    # softmax of (ln 3, 0, 0, 0): 3 / 6; of a word that has no photo: 1 / 4; invented: 3 / 5, and 1 / 3 twice
    assert [each.sureness for each in seen.classes] == pytest.approx([3 / 6, 1 / 4, 3 / 8])
    assert seen.limit == pytest.approx(1 / 3, abs=2e-4)
    assert [each.is_known for each in seen.classes] == [True, False, True]


@pytest.mark.parametrize("count", [50, BLOCK + 7])
def test_twins_and_the_odd_one_out_are_found_across_blocks(count: int) -> None:
    features = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    features[count - 2] = features[1]
    found = nearest(units(features))
    assert [(one, other) for one, other, _ in found.duplicates] == [(1, count - 2)] and found.pairs == 1
    assert found.compared == count and found.outliers[0][1] == min(value for _, value in found.outliers)
    assert nearest(np.zeros((1, 4), np.float32)).compared == 1


def test_of_very_many_images_an_even_share_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "NEIGHBOURS_MOST", 30)
    found = nearest(units(np.random.default_rng(0).normal(size=(100, 8))))
    assert found.compared == 30 and max(row for row, _ in found.outliers) > 50


def test_the_page_is_one_file_without_scripts_and_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_ui_project()
    done = CliRunner().invoke(main, ["preview"])
    assert done.exit_code == 0, done.output
    text = (DATA / "preview.html").read_text()
    page = Page(text.replace("<!doctype html>", ""))
    assert page.scripts == 0 and EVIL not in text and "default-src 'none'" in text
    sources = [values["src"] or "" for tag, values in page.tags if tag == "img"]
    assert sources and all(source.startswith("data:image/jpeg") for source in sources)
    assert "already there" in CliRunner().invoke(main, ["preview"]).stderr
    assert CliRunner().invoke(main, ["preview", "--force"]).exit_code == 0
    assert CliRunner().invoke(main, ["preview", "--out", "x.html"]).exit_code == 0 and Path("x.html").is_file()


@pytest.mark.parametrize("name", ["images.parquet", "text.h5", "clip_global.h5"])
def test_too_early_it_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_ui_project()
    (DATA / name).unlink()
    done = CliRunner().invoke(main, ["preview"])
    assert done.exit_code == 2 and "dvc repro text clip_global" in done.stderr


@pytest.mark.slow
def test_a_misspelt_class_is_seen_with_the_demos_clip(tmp_path: Path) -> None:
    """`bicylce` among the demo's classes: its photos are no surer than those of invented words."""
    import torch

    from ccd.teacher.encode import class_embeddings, load_teacher

    teacher = load_teacher("clip", str(ROOT / "ccd/demo/assets/clip.pt"), None, device=torch.device("cpu"))
    names = ["house", "tree", "car", "boat", "fish", "mug", "bicylce", "bicycle"]
    every = class_embeddings(teacher, [(name,) for name in (*names, *preview.INVENTED_WORDS)], ["a photo of the {}"])
    scenes = [render_scene(scene_rng(0, "train", number)).image for number in range(96)]
    pixels = torch.stack([torch.from_numpy(squash(image, 96, 96)) for image in scenes])
    features = torch.cat([teacher.encode_image(pixels[start : start + 16]) for start in range(0, 96, 16)]).numpy()
    text = every.numpy()
    seen = look(names, np.full((96, 8), 0.1, np.float32), features, text[:8], text[8:], 100.0)
    assert [each.name for each in seen.classes if not each.is_known] == ["bicylce"]
