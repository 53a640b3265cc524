"""Lower the precision of an ONNX model: to float16, or to 8-bit integers calibrated on images (by onnxruntime)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
METHOD = "static, QDQ, symmetric int8 weights per channel, uint8 activations by the smallest and largest value met"
_MATRIX = ("Conv", "Gemm", "MatMul")


def to_fp16(model: Any) -> Any:
    """Convert the weights and arithmetic of a ModelProto to float16; its inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def to_int8(source: Path, pixels: Iterable[Tensor], scratch: Path) -> Any:
    """Quantise the ONNX file ``source`` with the ranges of activations met for ``pixels``.

    The normalisation of the pixels, and all from the last matrix product or convolution on (the class activation maps
    and logits), stay float32: they are little work, and their rounding would be the answer's.

    Args:
        pixels: batches (b, 3, H, W) float32 in [0, 1], read one at a time; at least one.
        scratch: a folder for temporary files.

    Returns:
        The ModelProto. Each convolution and matrix product computes on 8-bit integers where a runtime can.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = scratch / "prepared.onnx"
    out = scratch / "int8.onnx"
    with _quiet():
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared),
            str(out),
            _reader(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=ends(onnx.load(prepared).graph),
        )
    return onnx.load(out)


def ends(graph: Any) -> list[str]:
    """Return the names of a graph's nodes before its first matrix product or convolution, and from its last one on."""
    made_by = {name: node for node in graph.node for name in node.output}
    used_by: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            used_by.setdefault(name, []).append(node)
    first: dict[str, None] = {}
    waiting = [value.name for value in graph.input]
    while waiting:
        for node in used_by.get(waiting.pop(), []):
            if node.op_type not in _MATRIX and node.name not in first:
                first[node.name] = None
                waiting += node.output
    last: dict[str, None] = {}
    waiting = [value.name for value in graph.output]
    while waiting:
        found = made_by.get(waiting.pop())
        if found is not None and found.name not in last:
            last[found.name] = None
            waiting += [] if found.op_type in _MATRIX else found.input
    return [*first, *last]


def _reader(pixels: Iterable[Tensor]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(pixels)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"pixels": batch.contiguous().numpy()}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice that onnxruntime's quantiser logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
