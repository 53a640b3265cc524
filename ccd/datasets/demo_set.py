"""The demo data set: scenes are rendered on first use, then read as a folder of images."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ccd.datasets.folder import LABELS_FILE, from_tables
from ccd.datasets.image_search import find_images
from ccd.datasets.record import ClassInfo, Dataset
from ccd.demo import scenes
from ccd.errors import CcdError

SETTINGS_FILE = "scenes.json"


@dataclass(frozen=True)
class DemoScenes:
    """Number of training and test scenes to render, and the ``seed`` of their content."""

    train: int
    test: int
    seed: int


def load_demo(
    root: Path,
    train_split: str,
    test_split: str | None,
    wanted: DemoScenes,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Render the scenes into ``root``, unless the same scenes are there, and read them.

    ``progress`` is called with (done, total) while rendering.

    Raises:
        CcdError: ``root`` holds anything that is not rendered scenes.
    """
    settings = {**asdict(wanted), "renderer": _renderer_digest()}
    if _settings(root) != settings or len(find_images(root)) != wanted.train + wanted.test:
        _clear(root)
        scenes.write_scenes(root, wanted.train, wanted.test, wanted.seed, progress)
        (root / SETTINGS_FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")
    classes = tuple(ClassInfo(name, (name,)) for name in scenes.CLASSES)
    return from_tables(root, train_split, test_split, classes, root / LABELS_FILE)


def _settings(root: Path) -> object:
    """Read the settings of the scenes in ``root``; None if there are none or rendering did not finish."""
    try:
        return json.loads((root / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _renderer_digest() -> str:
    """Hash the drawing code, since other code draws other scenes."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(scenes.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _clear(root: Path) -> None:
    """Delete earlier scenes, but no folder that holds anything else: ``root`` may be set by mistake."""
    if not root.exists():
        return
    foreign = sorted(path.name for path in root.iterdir() if path.name not in {"images", LABELS_FILE, SETTINGS_FILE})
    if foreign or not root.is_dir():
        raise CcdError(
            f"{root} holds other files than rendered scenes ({', '.join(foreign[:10])}); set dataset.root elsewhere"
        )
    shutil.rmtree(root)
