"""See the package's text."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click

from tests.mutation.run import drawn, judge


@click.command()
@click.option("--mutants", "count", default=60, show_default=True, help="How many to draw.")
@click.option("--seed", default=0, show_default=True)
@click.option("--goal", default=85, show_default=True, help="Exit status 1 if fewer percent are killed.")
@click.option("--only", metavar="TEXT", help="Only mutants whose line in the report holds this.")
def main(count: int, seed: int, goal: int, only: str | None) -> None:
    """Change the sources of labels and artifacts in memory, one change at a time, and see whether a test fails."""
    chosen = [each for each in drawn(10**9 if only else count, seed) if only is None or only in str(each)]
    with tempfile.TemporaryDirectory() as folder:
        fates = judge(chosen, Path(folder), lambda line: click.echo(line))
    killed = sum(fate.end != "SURVIVED" for fate in fates)
    share = 100 * killed / max(1, len(fates))
    click.echo(f"{killed} of {len(fates)} killed ({share:.0f} %), {sum(fate.seconds for fate in fates):.0f} s")
    sys.exit(share < goal)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
