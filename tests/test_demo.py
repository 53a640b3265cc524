"""The demo: scenes that depend on their seed and number alone, and two small networks that really load."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import clip
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from torchvision.models import mobilenet_v2

from ccd.demo import scenes
from ccd.demo.scenes import CLASSES, PRETRAIN_CLASSES, SceneObject, render_scene, render_single, scene_rng, write_scenes
from ccd.errors import CcdError
from tools.demo import train_backbone, train_clip
from tools.demo.captions import all_captions, write_caption
from tools.demo.pools import Picture, SceneOrder, render_pool

ASSETS = Path(scenes.__file__).parent / "assets"


def _tree_bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_seed_gives_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_scenes(tmp_path / name, n_train=2, n_test=1, seed=seed)
    assert _tree_bytes(tmp_path / "a") == _tree_bytes(tmp_path / "b")
    first = _tree_bytes(tmp_path / "a")
    other = _tree_bytes(tmp_path / "c")
    assert all(first[name] != other[name] for name in first if name.endswith(".jpg"))


def test_a_scene_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    write_scenes(tmp_path / "few", n_train=1, n_test=2, seed=0)
    write_scenes(tmp_path / "more", n_train=3, n_test=3, seed=0)
    few = _tree_bytes(tmp_path / "few")
    more = _tree_bytes(tmp_path / "more")
    shared = [name for name in few if name.endswith(".jpg")]
    assert len(shared) == 3
    assert all(few[name] == more[name] for name in shared)


def test_label_table_names_the_objects_of_each_scene(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_scenes(tmp_path / "set", n_train=3, n_test=2, seed=5, progress=lambda *count: told.append(count))
    with (tmp_path / "set" / "labels.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["image_id"] for row in rows] == [f"train_{i:05d}" for i in range(3)] + ["test_00000", "test_00001"]
    for row in rows:
        split, index = row["image_id"].split("_")
        scene = render_scene(scene_rng(5, split, int(index)))
        assert row["split"] == split
        assert set(row["classes"].split(";")) == {thing.name for thing in scene.objects}
        with Image.open(tmp_path / "set" / "images" / f"{row['image_id']}.jpg") as image:
            assert image.size == scene.image.size
    assert told == [(done, 5) for done in range(1, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"], "no draft is left behind"


def test_scenes_hold_one_to_four_objects_inside_the_picture_and_every_class_occurs() -> None:
    seen: set[str] = set()
    for index in range(120):
        scene = render_scene(scene_rng(9, "dev", index))
        assert 1 <= len(scene.objects) <= 4
        assert max(scene.image.size) == scenes.LONG_SIDE_PX
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box_px
            assert 0 <= x0 < x1 <= scene.image.width
            assert 0 <= y0 < y1 <= scene.image.height
            seen.add(thing.name)
    assert seen == set(CLASSES)


def test_streams_of_one_seed_share_no_picture() -> None:
    pictures = [render_scene(scene_rng(0, stream, 0)).image.tobytes() for stream in scenes.STREAMS]
    assert len(set(pictures)) == len(pictures)


def test_classes_are_enough_and_the_backbone_sees_none_of_them() -> None:
    assert len(CLASSES) >= 10
    assert len(PRETRAIN_CLASSES) >= 16
    assert not set(CLASSES) & set(PRETRAIN_CLASSES)


@pytest.mark.parametrize("name", [*CLASSES, *PRETRAIN_CLASSES])
def test_every_kind_can_be_drawn_alone(name: str) -> None:
    image = render_single(name, scene_rng(0, "dev", 1), 64)
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 5


def test_bad_requests_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match="cannot draw 'unicorn'"):
        render_single("unicorn", scene_rng(0, "dev", 0), 64)
    with pytest.raises(CcdError, match="must not be negative"):
        write_scenes(tmp_path / "set", n_train=-1, n_test=0, seed=0)
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(CcdError, match="not empty"):
        write_scenes(tmp_path, n_train=1, n_test=0, seed=0)
    assert (tmp_path / "kept.txt").read_text() == "mine"


def test_pool_is_the_same_with_and_without_worker_processes() -> None:
    orders = [SceneOrder(1, "clip", index) for index in range(3)]
    alone = render_pool(orders, workers=0)
    shared = render_pool(orders, workers=1)
    assert all(
        np.array_equal(a.pixels, b.pixels) and a.objects == b.objects for a, b in zip(alone, shared, strict=True)
    )


def test_captions_name_what_the_view_shows() -> None:
    rng = np.random.default_rng(0)
    things = (SceneObject("mug", (0, 0, 40, 40)), SceneObject("lamp", (60, 60, 70, 70)))
    picture = Picture(np.zeros((80, 80, 3), np.uint8), things, "desk")
    whole = [write_caption(picture, (0, 0, 80, 80), rng) for _ in range(400)]
    assert whole.count(("mug",)) > 4 * whole.count(("lamp",)) > 0, "the larger thing is named far more often"
    assert ("mug", "lamp") in whole, "both are named now and then, in the order of CLASSES"
    corner = {write_caption(picture, (55, 55, 80, 80), rng) for _ in range(200)}
    assert corner == {("lamp",), ("desk",)}, "what lies outside the view is not named"
    assert {write_caption(picture, (42, 0, 58, 20), rng) for _ in range(20)} == {("desk",)}


def test_every_written_caption_has_a_wording() -> None:
    texts = [caption.text for caption in all_captions()]
    assert len(set(texts)) == len(texts)
    assert {"a photo of the house", "a photo of an umbrella", "a house and a tree", "a photo of the shore"} <= set(
        texts
    )


def test_contrastive_loss_by_hand() -> None:
    images = torch.eye(2)
    meanings = torch.tensor([0, 1])
    matched = train_clip.contrastive_loss(images, torch.eye(2), meanings, scale=1.0)
    assert float(matched) == pytest.approx(float(np.log(1 + np.exp(-1))))
    shared = train_clip.contrastive_loss(images, torch.eye(2), torch.tensor([0, 0]), scale=1.0)
    assert float(shared) == pytest.approx(float(np.log(1 + np.exp(1)) - 0.5)), "equal meanings split the target"


def test_views_of_a_batch_match_their_captions_in_shape() -> None:
    pool = train_clip.render_training_pool(3, 3, seed=0, workers=0)
    batch = next(islice(train_clip.batches(pool, all_captions(), 5, np.random.default_rng(0)), 1))
    assert batch.images.shape == (5, 3, train_clip.INPUT_PX, train_clip.INPUT_PX)
    assert batch.images.dtype == torch.uint8
    assert batch.captions.shape == batch.meanings.shape == (5,)


def test_clip_training_command_writes_a_loadable_reproducible_checkpoint(tmp_path: Path) -> None:
    options = ["--steps", "2", "--batch-size", "4", "--scenes", "3", "--singles", "3", "--workers", "0"]
    for name in ("a.pt", "b.pt"):
        outcome = CliRunner().invoke(train_clip.main, ["--out", str(tmp_path / name), *options])
        assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    model, _ = clip.load(str(tmp_path / "a.pt"), device="cpu")
    assert model.visual.input_resolution == train_clip.INPUT_PX


def test_backbone_training_command_writes_features_alone(tmp_path: Path) -> None:
    options = ["--steps", "2", "--batch-size", "4", "--pictures", "6", "--input-px", "64", "--workers", "0"]
    outcome = CliRunner().invoke(train_backbone.main, ["--out", str(tmp_path / "net.pt"), *options])
    assert outcome.exit_code == 0, outcome.output
    weights = torch.load(tmp_path / "net.pt", weights_only=True)
    assert set(weights) == {name for name in mobilenet_v2().state_dict() if name.startswith("features.")}


def test_scenes_command_writes_the_set(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "set"), "--n-train", "1", "--n-test", "1"]
    assert CliRunner().invoke(scenes.main, arguments).exit_code == 0
    again = CliRunner().invoke(scenes.main, arguments)
    assert again.exit_code == 1
    assert "not empty" in again.output


def test_shipped_clip_is_small_and_reads_single_objects() -> None:
    path = ASSETS / "clip.pt"
    assert path.stat().st_size <= 10e6
    model, _ = clip.load(str(path), device="cpu")
    pictures = [render_single(name, scene_rng(2, "dev", i), 112) for name in CLASSES for i in range(4)]
    pixels = torch.stack([torch.from_numpy(np.array(image.resize((96, 96)))) for image in pictures])
    inputs = (pixels.permute(0, 3, 1, 2).float() / 255 - train_clip.PIXEL_MEAN) / train_clip.PIXEL_STD
    tokens = clip.tokenize([f"a photo of the {name}" for name in CLASSES])
    with torch.no_grad():
        images = F.normalize(model.encode_image(inputs))
        texts = F.normalize(model.encode_text(tokens))
    right = (images @ texts.T).argmax(1) == torch.arange(len(CLASSES)).repeat_interleave(4)
    assert float(right.float().mean()) >= 0.7


def test_shipped_backbone_is_small_and_fits_torchvision() -> None:
    path = ASSETS / "mobilenet_v2.pt"
    assert path.stat().st_size <= 5e6
    found = mobilenet_v2().load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert not found.unexpected_keys
    assert found.missing_keys == ["classifier.1.weight", "classifier.1.bias"]
