"""Section ``runtime``: knobs that cannot change a result. No stage depends on them, so they rerun nothing."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from ccd.params.base import Section


def _processes(value: object) -> object:
    if value != "auto" and not (type(value) is int and 1 <= value <= 1024):
        raise PydanticCustomError("processes", "write auto, or a whole number from 1 to 1024")
    return value


class RuntimeParams(Section):
    """``device``: auto, cpu, cuda or cuda:1. ``processes``: of a stage; auto = one per GPU, on the CPU one.
    ``workers``: of each process; null = one per core, 0 = decode in the process itself.
    ``store_gb``: size limit of the store of unfinished and repeated work, `ccd.store`; 0 = none."""

    section: ClassVar[str] = "runtime"
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    processes: Annotated[int | Literal["auto"], Field(ge=1, le=1024), PlainValidator(_processes)]
    workers: int | None = Field(ge=0, le=256)
    inference_batch_size: int = Field(ge=1, le=65536)
    store_gb: float = Field(ge=0)
