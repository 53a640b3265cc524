"""docs/reliability.md, some parts of which commands write."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
END = "<!-- to here -->"


def rewrite(module: str, text: str) -> None:
    """Put ``text`` between the marks of the command ``python -m MODULE``."""
    start = f"<!-- python -m {module} writes from here -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(start)
    tail = rest[rest.index(END) :]
    PAGE.write_text(f"{head}{start}\n\n{text.strip()}\n\n{tail}", encoding="utf-8")
