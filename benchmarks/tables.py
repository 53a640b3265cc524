"""Results as Markdown tables, with a description of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch


@dataclass(frozen=True)
class Table:
    """``rows`` of cells under ``columns``; ``note``: a description of the measurement."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return heading, note and table as Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"## {self.title}\n\n{self.note}\n\n{body}\n"


def machine() -> str:
    """Describe the machine as a Markdown list."""
    lines = [
        f"date: {date.today().isoformat()}",
        f"CPU: {_cpu()}, {len(os.sched_getaffinity(0))} cores usable, {os.getloadavg()[0]:.1f} load at the start",
        f"memory: {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}",
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
    ]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def speed(value: float) -> str:
    """Format items per second with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
