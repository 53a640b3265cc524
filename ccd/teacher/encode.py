"""Load the teacher, the frozen CLIP that labels the images, and send images and class names through it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.errors import CcdError, listed
from ccd.runtime.hardware import Precision, check_precision, one_ahead, rank0_first, read_later
from ccd.runtime.store import Store, fingerprint
from ccd.teacher import open_clip, openai
from ccd.teacher.clip_teacher import Backend, Normalization, Teacher
from ccd.teacher.openai import FILE_HASH, Remember

# Smaller batches take other kernels on CPUs, whose sums round otherwise: from this size on, an image's features do not
# depend on what else is in its batch.
SMALLEST_BATCH = 16
TEXTS_PER_BATCH = 256


@rank0_first()
def load_teacher(
    backend: Backend,
    model: str,
    pretrained: str | None,
    *,
    sha256: str | None = None,
    normalization: Normalization = "clip",
    precision: Precision = "fp32",
    device: torch.device,
    store: Store | None = None,
) -> Teacher:
    """Load a frozen CLIP. Its halves, for images and texts, read their weights when they are first used.

    Args:
        backend: ``clip`` (OpenAI's models) or ``open_clip`` (an extra).
        model: a name, or the path of a local checkpoint; with open_clip also of a config JSON or a folder.
        pretrained: open_clip's tag, or the path of the weights.
        sha256: checked if the weights are a local file.
        normalization: ``clip`` (the model's own pixel mean and std) or ``imagenet`` (the published code).
        precision: ``fp16`` needs a GPU.
        store: keeps hashes of local files of weights, so that each is computed once; see `remembering`.

    Raises:
        CcdError: an unknown name, a missing or wrong file, a failed download, a precision the device does not have.
    """
    check_precision(device, precision, "teacher.precision")
    chosen: Any = {"sha256": sha256, "normalization": normalization, "precision": precision, "device": device}
    chosen["remember"] = remembering(store)
    if backend == "open_clip":
        return open_clip.load(model, pretrained, **chosen)
    if pretrained is not None:
        raise CcdError("teacher.pretrained is for the backend open_clip: leave it empty")
    return openai.load(model, **chosen)


def remembering(store: Store | None) -> Remember:
    """Return a function that keeps SHA-256 values in the store, by what they are of and the file they come from.

    A file counts as unchanged as long as its path, size, time of change and inode are the same, as for DVC. Code and
    libraries that compute a value are part of its name. Without a store every value is computed. A file of weights that
    is mapped is not checked when it is read, so that is done here, before its weights are identified.
    """

    def computed(kind: str, file: Path, compute: Callable[[], str]) -> str:
        if kind != FILE_HASH:  # which tells more than checksums, and a wrong one is the caller's to mend
            _check_whole(file)
        return compute()

    def remember(kind: str, file: Path, compute: Callable[[], str]) -> str:
        if store is None:
            return computed(kind, file, compute)
        facts = _facts(file)
        slot = store.slot(fingerprint("weights", ("ccd.teacher.encode",), of=kind, file=facts))
        known = (slot.read() or b"").decode("ascii", "replace")
        if re.fullmatch("[0-9a-f]{64}", known):
            return known
        value = computed(kind, file, compute)
        if _facts(file) == facts:
            slot.save(value.encode("ascii"))
        return value

    return remember


def _check_whole(path: Path) -> None:
    """Check an archive's own checksums, which nobody does who maps it; other files have none. Raises CcdError."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CcdError(f"{path} is damaged ({damaged} is not what its checksum says); download it again")


def _facts(file: Path) -> list[object]:
    path = file.resolve()
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns, status.st_ino]


def encoding(teacher: Teacher, modules: tuple[str, ...] = (), **preprocessing: object) -> str:
    """Return the name of a teacher's features in the store: all that they depend on besides the pixels.

    ``modules``: dotted names of those that make them, besides the ones that every encoding uses.
    """
    return fingerprint(
        "features",
        ("ccd.teacher.encode", "ccd.views.crops", "ccd.images.batches", "ccd.runtime.hardware", *modules),
        teacher=[teacher.description, teacher.fingerprint],
        preprocessing=preprocessing,
    )


class ImageEncoder(Protocol):
    """A teacher, as far as images go, or `ccd.teacher.dense.WithRegions`."""

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        ...

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Encode (b, 3, h, w) uint8 to rows (b, D) float32; a GPU may still be at work when this returns."""
        ...


def encode_images(
    teacher: ImageEncoder, batches: Iterable[tuple[Tensor, Tensor]], names: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embed batches in their order.

    A batch of fewer than `SMALLEST_BATCH` images is filled up with copies, so that encoding all images or only some of
    them gives the same features, bit for bit on a CPU. A GPU, which plans anew for every shape and size of a batch,
    gets only multiples of `SMALLEST_BATCH` besides the largest size. It has the next batch before the features of the
    one before are read, so that it does not wait for the host.

    Args:
        batches: (rows (b,) int64, pixels (b, 3, h, w) uint8), e.g. of `ccd.images.batches.image_batches`; a loader
            with workers decodes the next batches while this one is computed.
        names: the image of each row, for error messages.

    Yields:
        rows (b,) int64 and features (b, D) float32, a teacher's with unit rows.

    Raises:
        CcdError: the teacher gives NaN or Inf, naming the images.
    """
    on_cpu = teacher.device.type == "cpu"

    def started() -> Iterator[tuple[Tensor, Callable[[], Tensor]]]:
        largest = 0
        for rows, pixels in batches:
            largest = 0 if on_cpu else max(largest, len(pixels))
            yield rows, read_later(teacher.embed_image(_filled(pixels, largest)))

    for rows, read in one_ahead(started(), teacher.device):
        yield _checked(rows, read(), names)


def _filled(pixels: Tensor, largest: int) -> Tensor:
    """Fill a batch up with copies of its last image, to the next multiple of `SMALLEST_BATCH` below ``largest``."""
    multiple = -(-len(pixels) // SMALLEST_BATCH) * SMALLEST_BATCH
    fill = max(SMALLEST_BATCH, min(multiple, largest)) - len(pixels)
    return torch.cat([pixels, pixels[-1:].expand(fill, -1, -1, -1)]) if fill > 0 else pixels


def _checked(rows: Tensor, features: Tensor, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and their features, without those of the copies. Raises CcdError for NaN or Inf."""
    features = features[: len(rows)]
    bad = rows[~torch.isfinite(features).all(dim=1)].tolist()
    if bad:
        raise CcdError(
            f"the teacher gave NaN or Inf for {listed(names[row] for row in bad)}: try teacher.precision fp32, "
            "or other weights"
        )
    return rows.numpy(), features.numpy()


def sigmoid_bias(teacher: Teacher) -> float:
    """Return the bias with which the teacher's sigmoid was trained. Raises CcdError: it was trained with a softmax."""
    if teacher.logit_bias is None:
        raise CcdError(
            f"text.activation = sigmoid needs a teacher that was trained with one, as SigLIP and SigLIP2 were, and "
            f"{teacher.description.partition(',')[0]} was trained with a softmax: set text.activation to softmax"
        )
    return teacher.logit_bias


def class_embeddings(teacher: Teacher, classes: Sequence[Sequence[str]], templates: Sequence[str]) -> Tensor:
    """Embed each class: t_c, the normalised mean of the unit embeddings of every template with every text.

    Args:
        classes: the texts of each of the C classes; several are averaged.
        templates: prompts such as ``a photo of the {}``.

    Returns:
        (C, D) float32, unit rows.

    Raises:
        CcdError: no class, template or text, a template without exactly one ``{}``, a prompt that is too long, or
            the teacher gives NaN or Inf.
    """
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise CcdError(f"a template must hold {{}} exactly once; wrong: {listed(map(repr, wrong)) or 'there is none'}")
    empty = [place for place, texts in enumerate(classes) if not texts]
    if empty or not classes:
        raise CcdError(f"every class needs a text; without one (from 0): {listed(empty) or 'there is no class'}")
    prompts = [
        (place, template.replace("{}", text))
        for place, texts in enumerate(classes)
        for template in templates
        for text in texts
    ]
    sums = torch.zeros((len(classes), teacher.embed_dim), dtype=torch.float64)
    for start in range(0, len(prompts), TEXTS_PER_BATCH):
        places, texts = zip(*prompts[start : start + TEXTS_PER_BATCH], strict=True)
        sums.index_add_(0, torch.tensor(places), teacher.encode_text(texts).double())
    means = F.normalize(sums, dim=1).float()
    broken = [texts[0] for texts, finite in zip(classes, torch.isfinite(means).all(dim=1), strict=True) if not finite]
    if broken:
        raise CcdError(f"the teacher gave NaN or Inf for the text of {listed(broken)}: try other weights")
    return means
