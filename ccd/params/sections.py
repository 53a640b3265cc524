"""The sections of ``params.yaml`` in their order: keys, types and ranges."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from ccd.params.file import Section, word_or_number


class DatasetParams(Section):
    """``root``: DVC tracks it for stage index only, so that a moved folder of the same images reruns nothing else."""

    section: ClassVar[str] = "dataset"
    paths: ClassVar[tuple[str, ...]] = ("root",)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    root: str = Field(min_length=1)


class IndexParams(Section):
    """``on_bad_image``, ``verify``, ``follow_links``: see `ccd.datasets.scan.scan`. Others are for some adapters."""

    section: ClassVar[str] = "index"
    paths: ClassVar[tuple[str, ...]] = ("classes_file", "labels_file")
    adapter: Literal["demo", "voc", "coco", "nuswide", "folder"]
    train_split: str = Field(min_length=1)
    test_split: str | None
    classes_file: str | None
    labels_file: str | None
    demo_train: int = Field(ge=1, le=1_000_000)
    demo_test: int = Field(ge=0, le=1_000_000)
    demo_seed: int = Field(ge=0)
    on_bad_image: Literal["error", "skip"]
    verify: Literal["decode", "header"]
    follow_links: bool


class TeacherParams(Section):
    """The teacher of stages text, clip_global and clip_local. Stage text uses only backend, model, pretrained and
    sha256."""

    section: ClassVar[str] = "teacher"
    paths: ClassVar[tuple[str, ...]] = ("model", "pretrained")
    backend: Literal["clip", "open_clip"]
    model: str = Field(min_length=1)
    pretrained: str | None
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    normalization: Literal["clip", "imagenet"]
    precision: Literal["fp32", "tf32", "bf16", "fp16"]


Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
Phrase = Annotated[str, Field(min_length=1)]


class TextParams(Section):
    """``class_texts``: texts of a class instead of its name; the embeddings of several are averaged.

    ``background_texts``: whole prompts for background images, for ``global_labels.none_rule: background``.
    ``background_words``: `ccd.labels.background.BACKGROUND_WORDS` too, and the background shares every softmax.
    ``standardized_scale`` and ``activation``: see `ccd.labels.scores.Scoring`.
    """

    section: ClassVar[str] = "text"
    templates: list[Template] = Field(min_length=1)
    class_texts: dict[str, list[Phrase]]
    background_texts: list[Phrase]
    background_words: bool
    logit_scale: float | None = Field(gt=0, le=1000)
    standardized_scale: float | None = Field(gt=0, le=100)
    activation: Literal["softmax", "sigmoid"]


class ClipGlobalParams(Section):
    """``image_size_px``: side of the square to which images are squashed. ``regions``: see `ccd.views.regions`.
    ``region_attention``: how a ViT reads its patches for them, see `ccd.teacher.dense`."""

    section: ClassVar[str] = "clip_global"
    image_size_px: int = Field(ge=16, le=4096)
    regions: int = Field(ge=0, le=64)
    region_attention: Literal["sclip", "sc_clip"]


class BiasParams(Section):
    """``enabled: false`` sets every b_c to 1. ``shrinkage`` is k of b_c = (sum + k * mean_b) / (count + k).

    ``center_scores``: see `ccd.labels.scores.Scoring`.
    """

    section: ClassVar[str] = "bias"
    center_scores: bool
    enabled: bool
    max_entropy_nats: float = Field(gt=0)
    shrinkage: float = Field(ge=0)


class GlobalLabelsParams(Section):
    """``floor`` is eps of clip(max(p, eps) / b, 0, 1); stage aggregate uses it for the local label too.

    ``none_*``: see `ccd.labels.background`; with ``none_rule: off``, the other two have no effect.
    """

    section: ClassVar[str] = "global_labels"
    floor: float = Field(ge=0, lt=1)
    none_rule: Literal["off", "entropy", "max_prob", "background"]
    none_threshold: float | None = Field(ge=0)
    none_weight: float = Field(ge=0, le=1)

    @field_validator("none_threshold")
    @classmethod
    def _check_threshold(cls, value: float | None, info: ValidationInfo) -> float | None:
        rule = info.data.get("none_rule", "off")
        if rule != "off" and value is None:
            raise ValueError(f"none_rule: {rule} needs a threshold")
        if rule in ("max_prob", "background") and value is not None and value > 1:
            raise ValueError(f"none_rule: {rule} compares probabilities, so it is at most 1")
        return value


class OptimizationParams(Section):
    """Adam; the head learns ``head_lr_multiplier`` times faster. ``schedule``: see `ccd.student.objectives.lr_factor`.

    ``frozen_backbone``: train the head alone.
    """

    image_size_px: int = Field(ge=16, le=4096)
    epochs: int = Field(ge=1, le=1000)
    batch_size: int = Field(ge=1, le=65536)
    lr: float = Field(gt=0, le=1)
    head_lr_multiplier: float = Field(gt=0, le=1000)
    schedule: Literal["constant", "cosine"]
    frozen_backbone: bool
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    seed: int = Field(ge=0, lt=2**31)


class WarmupParams(OptimizationParams):
    """The student's architecture and initial weights; later stages read the architecture from the checkpoint.

    ``weights: teacher``: those of its image tower, if that is a CNN, see `ccd.teacher.student_start`; others: see
    `ccd.student.pretrained`.
    """

    section: ClassVar[str] = "warmup"
    paths: ClassVar[tuple[str, ...]] = ("weights",)
    backbone: str = Field(min_length=1)
    weights: str = Field(min_length=1)
    weights_sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    cam_boost: float = Field(gt=0, le=1000)

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, value: str, info: ValidationInfo) -> str:
        if (value == "teacher") != (info.data.get("backbone") == "teacher"):
            raise ValueError("weights: teacher and backbone: teacher go together; set both or neither")
        if value == "timm" and not str(info.data.get("backbone", "timm/")).startswith("timm/"):
            raise ValueError("weights: timm are those of a backbone timm/NAME")
        return value


class CamBoxesParams(Section):
    """A view is a crop of an image that CLIP reads by itself, cut around a peak of a class activation map.

    ``tau``: lowest probability of a class that gets a view; null: the quantile that gives ``views_per_image``.
    ``shared_*``: see `ccd.views.overlap`; merging views leaves fewer than ``views_per_image``. ``tiles``: see
    `ccd.student.propose`; tiles are added to ``views_per_image``, and so are regions (``views: both``).
    """

    section: ClassVar[str] = "cam_boxes"
    image_size_px: int = Field(ge=16, le=4096)
    views_per_image: float = Field(gt=0)
    tau: float | None = Field(ge=0, le=1)
    cam_threshold: float = Field(ge=0, lt=1)
    offset: float = Field(ge=0, le=1)
    connected_components: bool
    boxes_per_class: int = Field(ge=1, le=100)
    min_side_px: float = Field(ge=1)
    shared_views: Literal["keep", "merge"]
    shared_iou: float = Field(gt=0, le=1)
    tiles: int = Field(ge=0, le=8)
    views: Literal["cam", "dense", "both"]
    precision: Literal["fp32", "tf32", "bf16", "fp16"]

    @property
    def least_shared_iou(self) -> float | None:
        """``shared_iou`` if shared views are merged, else None."""
        return self.shared_iou if self.shared_views == "merge" else None


class ClipLocalParams(Section):
    """``source``: cut views from the original image, or from the image squashed to ``resized_px`` (published code).
    ``shorter_sides``: number of lengths that sides may have, see `ccd.views.crops.side_lengths`; null: all."""

    section: ClassVar[str] = "clip_local"
    image_size_px: int = Field(ge=16, le=4096)
    source: Literal["original", "resized"]
    resized_px: int = Field(ge=16, le=4096)
    shorter_sides: int | None = Field(ge=1, le=256)

    @property
    def of_crops(self) -> dict[str, Any]:
        """Arguments of `ccd.views.crops.plan_crops`."""
        arguments = dict(self)
        return {"longer_px": arguments.pop("image_size_px"), **arguments}

    def attributes(self, strides: int = 0) -> dict[str, str]:
        """Return the section as features record it: ``shorter_sides`` only where it is fewer than ``strides``."""
        idle = self.shorter_sides is None or self.shorter_sides >= strides
        return {key: str(value) for key, value in self if not (idle and key == "shorter_sides")}


class AggregateParams(Section):
    """``alpha`` is the weight of the global label; 1 uses no local view. ``contest*``: see `ccd.views.overlap`.
    ``correction_weight``: w of y <- (1 - w) * y + w * c, where a person decided c; 1 takes their word, 0 ignores it."""

    section: ClassVar[str] = "aggregate"
    alpha: float = Field(ge=0, le=1)
    contest: bool
    contest_iou: float = Field(gt=0, le=1)
    sharpen_width: float | None = Field(gt=0)
    sharpen_at: Annotated[float | Literal["prevalence"], word_or_number("prevalence", float, 0, 1)]
    correction_weight: float = Field(ge=0, le=1)

    @property
    def least_contest_iou(self) -> float | None:
        """``contest_iou`` if views are contested, else None."""
        return self.contest_iou if self.contest else None


class TrainParams(OptimizationParams):
    """``epochs``: without the warm-up's; the paper's 10 epochs include them.

    ``label_update_sigma``: width of CDUL's gradient alignment, which updates labels by the student; null: labels are
    fixed. ``rand_augment``, ``crop_area``, ``paste_scale`` and the loss's weights: see `ccd.student.objectives`.
    ``ema_decay``: of the exponential moving average of the weights, which ``checkpoint: ema`` keeps.
    """

    section: ClassVar[str] = "train"
    consistency_weight: float = Field(ge=0)
    color_jitter: float = Field(ge=0, le=0.5)
    rand_augment: int = Field(ge=0, le=14)
    crop_area: float = Field(gt=0, le=1)
    paste_scale: float = Field(ge=0, lt=1)
    doubt_power: float = Field(ge=0, le=10)
    rejected_negatives: float = Field(ge=0, lt=1)
    ema_decay: float | None = Field(gt=0, lt=1)
    checkpoint: Literal["early_stop", "last", "average", "ema"]
    label_update_sigma: float | None = Field(gt=0)

    @field_validator("checkpoint")
    @classmethod
    def _check_average(cls, value: str, info: ValidationInfo) -> str:
        if value == "ema" and info.data.get("ema_decay") is None:
            raise ValueError("checkpoint: ema needs ema_decay, e.g. 0.998")
        return value


class HeadParams(Section):
    """The linear head on CLIP's features, see `ccd.student.probe`."""

    section: ClassVar[str] = "head"
    epochs: int = Field(ge=1, le=1000)
    lr: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=1)
    seed: int = Field(ge=0, lt=2**31)


class EvaluateParams(Section):
    """Classes with fewer than ``min_positives`` positives are left out of every mean, and reported."""

    section: ClassVar[str] = "evaluate"
    difficult: Literal["ignore", "positive", "negative"]
    min_positives: int = Field(ge=1)
    precision: Literal["fp32", "tf32", "bf16", "fp16"]

    def counted(self) -> tuple[Literal["ignore", "positive", "negative"], int]:
        """Return the handling of difficult objects, and the fewest positives of a class in the means."""
        return self.difficult, self.min_positives


class RuntimeParams(Section):
    """``device``: auto, cpu, cuda or cuda:1. ``processes``: per stage; auto: one per GPU, or one on a CPU.
    ``workers``: decoding processes of each process; null: one per core, 0: the process decodes itself.
    ``store_gb``: limit of `ccd.runtime.store`; 0: no store. ``cache_gb``: of `ccd.images.file_cache.FileCache`."""

    section: ClassVar[str] = "runtime"
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    processes: Annotated[int | Literal["auto"], word_or_number("auto", int, 1, 1024)]
    workers: int | None = Field(ge=0, le=256)
    inference_batch_size: int = Field(ge=1, le=65536)
    store_gb: float = Field(ge=0)
    cache_gb: float = Field(ge=0)


SECTIONS: tuple[type[Section], ...] = (
    DatasetParams, IndexParams, TeacherParams, TextParams, ClipGlobalParams, BiasParams, GlobalLabelsParams,
    WarmupParams, CamBoxesParams, ClipLocalParams, AggregateParams, TrainParams, HeadParams, EvaluateParams,
    RuntimeParams,
)  # fmt: skip
