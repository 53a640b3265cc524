"""All sections of ``params.yaml``, for what reads the whole file (`ccd use`, tests). Stages read their own only."""

from __future__ import annotations

from ccd.params.aggregate import AggregateParams
from ccd.params.base import Section
from ccd.params.bias import BiasParams
from ccd.params.cam_boxes import CamBoxesParams
from ccd.params.clip_global import ClipGlobalParams
from ccd.params.clip_local import ClipLocalParams
from ccd.params.dataset import DatasetParams
from ccd.params.evaluate import EvaluateParams
from ccd.params.global_labels import GlobalLabelsParams
from ccd.params.index import IndexParams
from ccd.params.runtime import RuntimeParams
from ccd.params.teacher import TeacherParams
from ccd.params.text import TextParams
from ccd.params.train import TrainParams
from ccd.params.warmup import WarmupParams

SECTIONS: tuple[type[Section], ...] = (
    DatasetParams,
    IndexParams,
    TeacherParams,
    TextParams,
    ClipGlobalParams,
    BiasParams,
    GlobalLabelsParams,
    WarmupParams,
    CamBoxesParams,
    ClipLocalParams,
    AggregateParams,
    TrainParams,
    EvaluateParams,
    RuntimeParams,
)
