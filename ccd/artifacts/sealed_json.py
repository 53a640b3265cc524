"""JSON artifacts with a schema and a seal (``classes.json``, ``bias.json``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ccd.artifacts.atomic import replacing, unreadable
from ccd.artifacts.seal import BLANK, KEY, stamp, verify
from ccd.machine import is_refusal


def write_sealed(path: Path, schema: str, content: dict[str, Any]) -> None:
    """Write readable JSON; NaN is refused (``ValueError``), since JSON has no such number."""
    head = {"schema": schema, KEY: BLANK}
    with replacing(path) as temporary:
        text = json.dumps({**head, **content}, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        stamp(temporary)


def read_sealed(path: Path, schema: str, stage: str) -> dict[str, Any]:
    """Read what ``stage`` wrote. Raises CcdError if it is missing, changed, or of another schema."""
    verify(path, stage)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if is_refusal(error):
            raise
        raise unreadable(path, error, stage) from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise unreadable(path, f"its schema is {found!r}, expected {schema!r}", stage)
    return content  # type: ignore[no-any-return]
