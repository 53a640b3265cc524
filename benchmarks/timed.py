"""Runs a command and reports its time and memory: python -m benchmarks.timed RESULT.json COMMAND...

It is a process of its own, since Linux counts the memory of the starting process in the peak of the started one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(result: str, *command: str) -> int:
    """Run ``command``; write its seconds, peak memory in MB and exit status to the file ``result``."""
    start = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    measures = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        "status": os.waitstatus_to_exitcode(status),
    }
    Path(result).write_text(json.dumps(measures))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
