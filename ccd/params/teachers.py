"""Teachers that we recommend, by hardware, and the licences of published weights as far as we know them."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import NamedTuple

HUB = "hf-hub:"
MIT = "MIT"
APACHE = "Apache-2.0"


class Recommended(NamedTuple):
    """A teacher of the table.

    ``hardware``: a key of `ccd.params.recipes.HARDWARE`. ``model``: the value of ``teacher.model``; ``backend`` of
    ``teacher.backend``. ``parameters_m``: 10^6 weights, text tower included. ``image_px``: the size it was trained on.
    ``gflop``: 10^9 floating-point operations, two a multiply-add, of the image tower for one image of that size.
    ``dim``: of the embeddings. ``config``: open_clip's name and tag of the same weights, which the tests compare.
    """

    hardware: str
    model: str
    parameters_m: int
    image_px: int
    gflop: float
    dim: int
    licence: str
    when: str
    config: tuple[str, str]

    @property
    def backend(self) -> str:
        """The value of ``teacher.backend``."""
        return "open_clip" if self.model.startswith(HUB) else "clip"


TITLES = {
    "cpu": "a laptop without GPU",
    "small_gpu": "one consumer GPU",
    "large_gpu": "one data-centre GPU, of 20 GB or more",
}
# The first of each hardware is what `ccd init` takes.
TEACHERS = (
    Recommended("cpu", "ViT-B/32", 151, 224, 8.8, 512, MIT, "default; least work", ("ViT-B-32", "openai")),
    Recommended("cpu", "RN50", 102, 224, 12.2, 1024, MIT, "a CNN: the student can start as it", ("RN50", "openai")),
    Recommended("cpu", "hf-hub:timm/PE-Core-T-16-384", 70, 384, 9.5, 512, APACHE, "newer; smallest download",
                ("PE-Core-T-16-384", "meta")),
    Recommended("cpu", "hf-hub:timm/ViT-B-32-SigLIP2-256", 377, 256, 11.5, 768, APACHE,
                "newer; many languages; sigmoid", ("ViT-B-32-SigLIP2-256", "webli")),
    Recommended("small_gpu", "ViT-B/16", 150, 224, 35.1, 512, MIT, "default", ("ViT-B-16", "openai")),
    Recommended("small_gpu", "hf-hub:timm/PE-Core-B-16", 448, 224, 35.6, 1024, APACHE, "newer, for the same work",
                ("PE-Core-B-16", "meta")),
    Recommended("small_gpu", "hf-hub:timm/ViT-B-16-SigLIP2-384", 375, 384, 112.1, 768, APACHE,
                "newer; many languages; sigmoid", ("ViT-B-16-SigLIP2-384", "webli")),
    Recommended("small_gpu", "hf-hub:laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg", 179, 256, 40.1, 640, MIT,
                "a CNN: the student can start as it", ("convnext_base_w", "laion2b_s13b_b82k_augreg")),
    Recommended("large_gpu", "RN50x64", 623, 448, 529.1, 1024, MIT, "default; the paper's; a CNN",
                ("RN50x64", "openai")),
    Recommended("large_gpu", "hf-hub:timm/PE-Core-L-14-336", 671, 336, 384.4, 1024, APACHE, "newer, for less work",
                ("PE-Core-L-14-336", "meta")),
    Recommended("large_gpu", "hf-hub:timm/ViT-SO400M-16-SigLIP2-384", 1136, 384, 518.9, 1152, APACHE,
                "newer; many languages; sigmoid", ("ViT-SO400M-16-SigLIP2-384", "webli")),
)  # fmt: skip


class Licence(NamedTuple):
    """The licence of weights; ``is_restricted``: it allows research or non-commercial use alone."""

    name: str
    is_restricted: bool = False


_APPLE = Licence("Apple's licence for research models, research alone", True)
_NON_COMMERCIAL = Licence("CC-BY-NC-4.0, no commercial use", True)
# By parts of names, restricted ones first: a name of two families has the stricter licence.
_KNOWN = (
    (r"mobileclip|(?<![a-z])dfn|hf-hub:apple/", _APPLE),
    (r"metaclip|nllb", _NON_COMMERCIAL),
    (r"siglip2?.* webli$|hf-hub:timm/.*siglip", Licence(APACHE)),
    (r"pe-core.* meta$|hf-hub:timm/pe-core", Licence(APACHE)),
    (r" openai$|^clip (rn\d+(x\d+)?|vit-[bl]/\d+(@336px)?) $|hf-hub:laion/clip-", Licence(MIT)),
    (r"^open_clip (?!.*(clipa|eva|vitamin)).* (laion|datacomp_|commonpool_|frozen_laion)[a-z0-9_]*$", Licence(MIT)),
)


def weights_licence(backend: str, model: str, pretrained: str | None) -> Licence | None:
    """Return the licence of a teacher's weights by their names, as in section ``teacher``; None: not known.

    Of local files and folders their own names are looked at, and can tell a restriction alone.
    """
    text = f"{backend} {_own_name(model)} {_own_name(pretrained or '')}".lower()
    found = next((licence for pattern, licence in _KNOWN if re.search(pattern, text)), None)
    is_local = any(name != _own_name(name) for name in (model, pretrained or ""))
    return None if found is None or (is_local and not found.is_restricted) else found


def _own_name(name: str) -> str:
    """Return the last part of an absolute path, and any other name as it is."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def licence_warning(backend: str, model: str, pretrained: str | None) -> str | None:
    """Return a line for the console if a teacher's weights are for research or non-commercial use alone, else None."""
    licence = weights_licence(backend, model, pretrained)
    if licence is None or not licence.is_restricted:
        return None
    name = " ".join(part for part in (model, pretrained) if part)
    return f"warning: by its name, the teacher {name} has weights under {licence.name}; ccd teachers lists others"


def recommended(model: str) -> Recommended | None:
    """Return the row of the table whose ``teacher.model`` this is."""
    return next((row for row in TEACHERS if row.model == model), None)


def hub_line(model: str) -> str | None:
    """Return a line on the download of a model of the Hugging Face hub; None for any other model."""
    if not model.startswith(HUB):
        return None
    repository = model.removeprefix(HUB)
    row = recommended(model)
    size = "" if row is None else f", about {row.parameters_m * 4 / 1000:.1f} GB"
    return (
        f"`dvc repro` will fetch the teacher from https://huggingface.co/{repository}{size}; without a network, get it "
        f"where there is one (hf download {repository} --local-dir FOLDER) and give --teacher FOLDER"
    )
