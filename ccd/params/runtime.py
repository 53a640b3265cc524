"""Section ``runtime``: knobs that cannot change a result. No stage depends on them, so they rerun nothing."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ccd.params.base import Section


class RuntimeParams(Section):
    """``device``: auto, cpu, cuda or cuda:1. ``workers``: null = one per core, 0 = decode in the main process.
    ``store_gb``: size limit of the store of unfinished and repeated work, `ccd.store`; 0 = none."""

    section: ClassVar[str] = "runtime"
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    workers: int | None = Field(ge=0, le=256)
    inference_batch_size: int = Field(ge=1, le=65536)
    store_gb: float = Field(ge=0)
