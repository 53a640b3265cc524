"""Many strings in little memory: ids and paths of all images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa

_AT_ONCE = 4096


class Names(Sequence[str]):
    """A list of strings that costs their bytes and four more each; as Python's own strings they would cost sixty.

    Slices share the memory of the whole. Equal to any sequence of the same strings.
    """

    def __init__(self, values: Iterable[str] | pa.Array | pa.ChunkedArray) -> None:
        """Raises ValueError for what is no text (pyarrow.ArrowInvalid, of bytes that are not UTF-8)."""
        if isinstance(values, Names):
            values = values.arrow
        elif not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(list(values), pa.string())
        one = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        self.arrow: pa.StringArray = one.cast(pa.string())
        if self.arrow.null_count:
            raise ValueError("a name is missing")

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Names: ...
    def __getitem__(self, row: int | slice) -> str | Names:
        if isinstance(row, slice):
            start, end, step = row.indices(len(self))
            return Names(self.arrow[start:end] if step == 1 else self.take(np.arange(start, end, step)).arrow)
        name: str = self.arrow[row].as_py()
        return name

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.arrow.slice(start, _AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return bool(self.arrow.equals(other.arrow))
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({len(self)}: {', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''})"

    def take(self, rows: np.ndarray) -> Names:
        """The names at ``rows`` (m,), in that order."""
        return Names(self.arrow.take(pa.array(rows, pa.int64())))
