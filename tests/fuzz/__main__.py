"""See the package's text."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from tests.fuzz.run import fuzz, one, report


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="Cases of each family: params, and files.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", metavar="SUBJECT:NUMBER", help="Repeat one case of the seed, with its traceback.")
def main(cases: int, seed: int, only: str | None) -> None:
    """Fuzz every reader; exit status 1 if something was found."""
    with tempfile.TemporaryDirectory() as folder:
        if only is not None:
            name, _, number = only.rpartition(":")
            click.echo(one(Path(folder), name, int(number), seed))
            return
        tallies = [tally for family in ("params", "files") for tally in fuzz(Path(folder), family, cases, seed)]
    click.echo(report(tallies))
    sys.exit(any(tally.findings for tally in tallies))


if __name__ == "__main__":
    main()
