"""``ccd teachers``: the table of recommended teachers."""

from __future__ import annotations

import json

import click

_NOTE = """\
GFLOP: of the image tower for one image, two a multiply-add. Licence: of the weights.
Take one: ccd init DIR --images FOLDER --teacher NAME, or teacher.model in params.yaml with teacher.backend: open_clip
for the names that begin with hf-hub:. Any other OpenAI or open_clip model works too: docs/teachers.md."""


@click.command(short_help="List recommended teachers by hardware, with licences.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def teachers(as_json: bool) -> None:
    """List the CLIP models that we recommend as teachers, for a laptop, a consumer GPU and a data-centre GPU, with
    size, work, and the licence of their weights. The first of each is what `ccd init` takes.

    Models whose weights are for research or non-commercial use alone (MobileCLIP, DFN, MetaCLIP) are not listed.
    """
    from ccd.params.teachers import TEACHERS, TITLES
    from ccd.report.text_table import aligned

    if as_json:
        rows = [
            {key: value for key, value in row._asdict().items() if key != "config"} | {"backend": row.backend}
            for row in TEACHERS
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    heading = ["teacher.model", "10^6 weights", "px", "GFLOP", "dim", "licence", ""]
    cells = [heading]
    for hardware, title in TITLES.items():
        cells += [[f"- {title}", *[""] * 6]]
        chosen = [row for row in TEACHERS if row.hardware == hardware]
        cells += [[row.model, *map(str, row[2:8])] for row in chosen]
    click.echo(f"{aligned(cells, 150)}\n\n{_NOTE}")
