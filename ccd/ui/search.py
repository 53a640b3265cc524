"""Search by text and by a similar image, and the map: on CLIP's embeddings, which the pipeline has computed anyway."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ccd.errors import CcdError
from ccd.params.file import load
from ccd.params.sections import TeacherParams, TextParams
from ccd.ui.project_data import ProjectData
from ccd.ui.selection import fitted, principal_axes

if TYPE_CHECKING:
    from ccd.teacher.clip_teacher import Teacher

LONGEST_TEXT = 200
UMAP_MOST = 50_000


class TextTower:
    """The text half of the project's CLIP, loaded at its first use: that takes seconds, and its memory from then on."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._teacher: Teacher | None = None
        self._has_read = False
        self._embed = lru_cache(256)(self._encode)

    @property
    def is_loaded(self) -> bool:
        """Whether `embed` answers at once."""
        return self._has_read

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts under the project's templates, (T, D) float32 unit rows.

        Raises:
            CcdError: the teacher cannot be loaded, or a text is too long.
        """
        with self._lock:
            return self._embed(tuple(texts))

    def teacher(self) -> Teacher:
        """Return the project's CLIP, whose halves read their weights when they are first used.

        Raises:
            CcdError: it cannot be loaded.
        """
        from ccd.runtime.hardware import set_up_hardware
        from ccd.runtime.store import open_store
        from ccd.teacher.encode import load_teacher

        with self._lock:
            if self._teacher is None:
                options = load(TeacherParams).model_dump()
                self._teacher = load_teacher(**options, device=set_up_hardware().device, store=open_store())
            return self._teacher

    def _encode(self, texts: tuple[str, ...]) -> np.ndarray:
        from ccd.teacher.encode import class_embeddings

        templates = load(TextParams).templates
        embeddings: np.ndarray = class_embeddings(self.teacher(), [(text,) for text in texts], templates).numpy()
        self._has_read = True
        return embeddings


class Search:
    """Similarities to a text or an image, and the map, of the images of ``project``."""

    def __init__(self, project: ProjectData, tower: TextTower) -> None:
        self._project = project
        self._tower = tower
        self._lock = threading.Lock()
        self._map: tuple[object, np.ndarray] | None = None

    def by_text(self, text: str) -> np.ndarray:
        """Return the cosine (N,) of every image with ``text``. Raises CcdError for an empty or long one."""
        text = " ".join(text.split())
        if not 0 < len(text) <= LONGEST_TEXT:
            raise CcdError(f"a text to search for has 1 to {LONGEST_TEXT} characters")
        features = self._project.features()
        embedding = self._tower.embed([text])[0]
        if len(embedding) != features.shape[1]:
            raise CcdError("the embeddings are of another CLIP than params.yaml names; run: dvc repro clip_global text")
        return np.asarray(features @ embedding)

    def by_image(self, row: int) -> np.ndarray:
        """Return the cosine (N,) of every image with the one at ``row``."""
        features = self._project.features()
        return np.asarray(features @ features[row])

    def map_points(self) -> np.ndarray:
        """Return the map, (N, 2) float32 in the unit square, computed once: PCA, or UMAP where it is installed."""
        with self._lock:
            features = self._project.features()
            if self._map is None or self._map[0] is not features:
                self._map = features, _points(features)
            return self._map[1]


def map_kind(count: int) -> str:
    """Return ``UMAP`` where that is installed and ``count`` images are not too many for it, else ``PCA``."""
    return "UMAP" if find_spec("umap") is not None and 15 < count <= UMAP_MOST else "PCA"


def _points(features: np.ndarray) -> np.ndarray:
    if map_kind(len(features)) == "PCA":
        return principal_axes(features)
    try:
        from umap import UMAP
    except ImportError as error:  # its compiler is particular about the version of NumPy; another package has the name
        raise CcdError(
            f"the map needs a working UMAP ({error}): pip install --upgrade umap-learn, or remove it for a map by PCA"
        ) from None
    reducer: Any = UMAP(metric="cosine", random_state=0, n_jobs=1)  # with a seed it warns of any other n_jobs
    return fitted(reducer.fit_transform(features))
