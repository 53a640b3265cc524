"""The embedded demo: rendered scenes, made on first use and then read as a folder of images."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ccd.datasets.folder import LABELS_FILE, from_tables
from ccd.datasets.image_search import find_images
from ccd.datasets.record import ClassInfo, Dataset
from ccd.demo import scenes
from ccd.errors import CcdError

SETTINGS_FILE = "scenes.json"


def load_demo(
    root: Path,
    train_split: str,
    test_split: str | None,
    train: int,
    test: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Render ``train`` + ``test`` scenes into ``root``, unless these very scenes are there, and read them.

    ``progress`` is told (done, total) while rendering.

    Raises:
        CcdError: ``root`` holds anything that is not rendered scenes.
    """
    settings = {"train": train, "test": test, "seed": seed, "renderer": _renderer_digest()}
    if _settings(root) != settings or len(find_images(root)) != train + test:
        _clear(root)
        scenes.write_scenes(root, train, test, seed, progress)
        (root / SETTINGS_FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")
    classes = tuple(ClassInfo(name, (name,)) for name in scenes.CLASSES)
    return from_tables(root, train_split, test_split, classes, root / LABELS_FILE)


def _settings(root: Path) -> object:
    """What the scenes there were rendered with; None if there are none, or their rendering was not finished."""
    try:
        return json.loads((root / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _renderer_digest() -> str:
    """Scenes drawn by other code are other scenes; how CLIP was trained does not matter."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(scenes.__file__).parent.glob("*.py")):
        if not path.name.startswith(("train", "captions", "pools")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _clear(root: Path) -> None:
    """Remove earlier scenes, and nothing else: a root set by mistake must not cost anybody a folder."""
    if not root.exists():
        return
    foreign = sorted(path.name for path in root.iterdir() if path.name not in {"images", LABELS_FILE, SETTINGS_FILE})
    if foreign or not root.is_dir():
        raise CcdError(
            f"{root} holds other files than rendered scenes ({', '.join(foreign[:10])}); set dataset.root elsewhere"
        )
    shutil.rmtree(root)
