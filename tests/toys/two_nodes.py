"""A launcher for CCD_LAUNCH that stands for two machines: two agents of torchrun that meet on loopback.

    python -m tests.toys.two_nodes PROCESSES_PER_NODE -m stages.NAME --images ...

As `srun --kill-on-bad-exit=1` it ends both once one fails.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def main(words: list[str]) -> int:
    meeting = f"127.0.0.1:{free_port()}"
    options = ["--nnodes=2", f"--nproc-per-node={words[0]}", "--rdzv-id=ccd", "--rdzv-backend=c10d"]
    agent = [sys.executable, "-m", "torch.distributed.run", *options, f"--rdzv-endpoint={meeting}"]
    nodes = [subprocess.Popen([*agent, "--local-addr=127.0.0.1", *words[1:]]) for _ in range(2)]
    while any(node.poll() is None for node in nodes) and not any(node.poll() for node in nodes):
        time.sleep(0.1)
    for node in nodes:
        node.terminate()
    return max(abs(node.wait()) for node in nodes)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
