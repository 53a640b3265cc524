"""A stage whose ranks wait for ever, rank 0 inside a collective; it leaves its process ids in the folder ``out``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ccd.runtime.console import StageLog
from ccd.runtime.hardware import all_gather, this_rank
from ccd.runtime.launch import shared_stage


@shared_stage
def main(out: Path) -> None:
    """Wait."""
    (out / str(os.getpid())).touch()
    all_gather(None)
    StageLog("waiting").reads("nothing")
    if this_rank() > 0:
        time.sleep(600)
    all_gather(None)


if __name__ == "__main__":
    main()
