"""``ccd teachers``, ``ccd preview`` and ``ccd open``: look at what CLIPs there are, and at a project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import click

from ccd.cli.options import force_option, shell_path
from ccd.errors import CcdError, install_advice, user_errors

PATH = click.Path(path_type=Path)
_TEACHERS_NOTE = """\
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
    click.echo(f"{aligned(cells, 150)}\n\n{_TEACHERS_NOTE}")


@click.command("preview", short_help="Show what CLIP sees, before the whole run.")
@click.option("--out", type=PATH, metavar="FILE", help="Page to write; default: data/<dataset.name>/preview.html.")
@force_option
def preview(out: Path | None, force: bool) -> None:
    """Write a page that shows how CLIP understands the classes: its surest photos of each, the classes it confuses or
    never chooses, words it may not know, near-duplicates and photos unlike all others.

    It needs only the first stages, so a misspelt or unlucky class name shows after minutes, not after the whole run:

    \b
      dvc repro clip_global text
      ccd preview

    An existing page is replaced only with --force.
    """
    from ccd.artifacts.existing import refuse_existing
    from ccd.artifacts.files import write_text
    from ccd.ui.preview import preview_page
    from ccd.ui.project_data import ProjectData
    from ccd.ui.search import TextTower

    with user_errors():
        project = ProjectData()
        target = out or project.folder / "preview.html"
        refuse_existing([target], force=force)
        page, findings = preview_page(project, TextTower())
        write_text(target, page)
        for line in findings:
            click.echo(line)
        click.echo(f"wrote {target}: {target.stat().st_size / 1e6:.2f} MB")


@click.command("open", short_help="Look, search and review in the browser.")
@click.argument("project", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port; default: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@click.option("--label-studio", is_flag=True, help="Print an address for Label Studio too; it stays good.")
@click.option(
    "--fetch",
    type=click.Choice(["off", "public", "loopback"]),
    default="off",
    show_default=True,
    help="Let POST /predict fetch images from public addresses; loopback: from this machine's too.",
)
def open_command(
    project: Path,
    port: int,
    host: str,
    no_browser: bool,
    label_studio: bool,
    fetch: Literal["off", "public", "loopback"],
) -> None:
    """Serve a local page over the PROJECT (default: this folder) until Ctrl-C: all images with filters, search by text
    and by image, a map, every image's story, and review of labels (docs/review.md).

    It works from stage clip_global on and shows what there is. Answers go to corrections/<dataset.name>.csv at once.
    Only this machine reaches the page, and only with the printed address.

    Programs send images to POST /predict; Label Studio takes predictions and sends back answers with --label-studio.
    """
    with user_errors():
        try:
            import starlette
            import uvicorn  # noqa: F401
        except ImportError:
            raise CcdError(f"ccd open needs a web server; {install_advice('ui')}") from None
        del starlette
        from ccd.ui.server import Serving, serve

        if not (project / "params.yaml").is_file():
            raise CcdError(f"{shell_path(project)}: no project, there is no params.yaml; give the project's folder")
        os.chdir(project)
        how = Serving(host, port, browser=not no_browser, label_studio=label_studio, allowed=fetch)
        serve(how, click.echo)
