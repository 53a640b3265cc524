"""``ccd demo``: the embedded demo as a project in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from ccd.cli.options import force_option
from ccd.errors import user_errors

_README = """\
# The demo of ccd

1,000 drawn scenes for training and 500 for the test, 14 classes, and a small CLIP (`clip.pt`): the whole pipeline in
minutes, without a GPU or a download.

    dvc repro                     # run everything, or after a change only what is needed
    dvc metrics show              # mAP in %

Then open `data/demo/report.html` in a browser.

    ccd inspect train_00011.jpg   # how one image got its labels
    ccd predict data/demo/student.pt datasets/demo --out labels.csv

Change a value in `params.yaml`, where each is explained, and run `dvc repro` again. For your own images: `ccd init`.
"""


@click.command(short_help="Make the embedded demo as a project in a folder.")
@click.argument("folder", type=click.Path(path_type=Path), default="ccd-demo", metavar="[DIR]")
@click.option("--run", is_flag=True, help="Run it right away (dvc repro): minutes on a CPU.")
@force_option
def demo(folder: Path, run: bool, force: bool) -> None:
    """Make the embedded demo as a project in DIR (default: ccd-demo): drawn scenes, a small CLIP, the whole pipeline.

    It needs no clone, no GPU and no download. `dvc repro` in DIR runs it.

    \b
    Examples:
      ccd demo
      ccd demo /tmp/demo --run
    """
    from ccd.artifacts.corrections_file import COLUMNS, path_of
    from ccd.artifacts.existing import keep_old, refuse_existing
    from ccd.artifacts.files import replacing
    from ccd.cli.init_command import write_project
    from ccd.params.presets import apply_preset, parameters
    from ccd.params.recipes import default_recipe
    from ccd.project.create import check_folder
    from ccd.project.pipeline import project_text

    with user_errors():
        check_folder(folder, force=force)
        clip = Path(__file__).resolve().parents[1] / "demo/assets/clip.pt"
        values = {"teacher.model": clip.name}
        params = apply_preset("demo", None, {}, values=values, recipe=default_recipe("demo"))
        dataset = parameters(params)["dataset"]
        texts = {
            "params.yaml": params,
            "dvc.yaml": project_text(),
            "README.md": _README,
            path_of(dataset["name"]).as_posix(): ",".join(COLUMNS) + "\n",
        }
        own = folder / clip.name
        content = clip.read_bytes()
        if not (own.is_file() and own.read_bytes() == content):
            refuse_existing([own], force=force)
            if backup := keep_old(own):
                click.echo(f"kept your {own} as {backup}")
            with replacing(own) as temporary:
                temporary.write_bytes(content)
        write_project(folder, dataset["root"], texts, None)
        if run:
            raise SystemExit(_repro(folder))


def _repro(folder: Path) -> int:
    """Run ``dvc repro`` in ``folder`` with this Python, also where its environment is not active; return its status."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    sys.stdout.flush()
    command = [sys.executable, "-m", "dvc", "repro"]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, check=False).returncode
