"""The command line: what people do beside ``dvc repro``. Imports are inside commands, so that ``ccd --help`` is
instant."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd import __version__
from ccd.cli.export_command import export
from ccd.cli.init_command import init
from ccd.cli.predict_command import predict
from ccd.cli.review_command import review
from ccd.cli.thresholds_command import thresholds
from ccd.errors import Interruptible

if TYPE_CHECKING:
    from ccd.runtime.store import Entry


class InOrder(Interruptible, click.Group):
    """Commands are listed in the order in which one needs them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """As they were added."""
        return list(self.commands)


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 2 a mistake in what was asked, 3 something was left out and named, 130 interrupted. "
    "Between init or use and the rest: dvc repro. Documentation: docs/cli.md.",
)
@click.version_option(__version__, prog_name="ccd")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; so does CCD_DEBUG=1, for stages too.")
def main(debug: bool) -> None:
    """Unlabelled images and class names in, a multi-label classifier out (CCD, CVPR 2025)."""
    if debug:
        os.environ["CCD_DEBUG"] = "1"


main.add_command(init)


@main.command(short_help="Write params.yaml for a data set; list the presets.")
@click.argument("preset", required=False)
@click.option("--root", metavar="DIR", help="Folder of the data set.")
@click.option("--set", "settings", metavar="SECTION.KEY=VALUE", multiple=True, help="Change one value; repeatable.")
@click.option("--force", is_flag=True, help="Also in a project of ccd init, whose params.yaml is then replaced.")
@click.option("--json", "as_json", is_flag=True, help="For programs: the presets, or what changed.")
def use(preset: str | None, root: str | None, settings: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Write params.yaml for a data set: the PRESET's values, comments kept. Without PRESET, list them.

    Everything goes back to the preset's values except section 'runtime'; what changes is printed, and a params.yaml
    with values of yours is kept as params.yaml.bak. Artifacts of other data sets stay, and DVC brings their results
    back when you return. For a clone of the repository; projects for your own images are made by `ccd init`.
    """
    from ccd.artifacts.corrections_file import ensure, path_of
    from ccd.errors import user_errors
    from ccd.params.file import PARAMS_FILE, load
    from ccd.params.presets import apply_preset, changes, check_replaceable, presets, replace_params, settings_of
    from ccd.params.sections import DatasetParams

    with user_errors():
        if preset is None:
            listed = "\n".join(f"{name:12} {what}" for name, what in presets().items())
            click.echo(json.dumps({"presets": presets()}, indent=2) if as_json else listed)
            return
        check_replaceable(force=force)
        old = PARAMS_FILE.read_text(encoding="utf-8", errors="replace") if PARAMS_FILE.exists() else None
        new = apply_preset(preset, root, settings_of(settings), old)
        kept = replace_params(old, new)
        if kept is not None:
            click.echo(f"kept the old {PARAMS_FILE} as {kept}", err=as_json)
        dataset = load(DatasetParams)
        corrections = path_of(dataset.name)
        if ensure(corrections):
            click.echo(
                f"wrote {corrections}: what people decide about images goes there (ccd review --help)", err=as_json
            )
        lines = changes(old, new) if old is not None else []
        if as_json:
            content = {"wrote": str(PARAMS_FILE), "kept": None if kept is None else str(kept), "changes": lines}
            click.echo(json.dumps(content, indent=2, ensure_ascii=False))
            return
        click.echo("\n".join(lines) if lines else f"{PARAMS_FILE}: no value changed" if old else f"wrote {PARAMS_FILE}")
        _say_next(Path(dataset.root), preset)


@main.command(short_help="Tell how an image got its labels; list images to look at.")
@click.argument("image", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the overlay; default: NAME.overlay.png.")
@click.option("--force", is_flag=True, help="Replace an overlay that is there already.")
@click.option("--class", "class_name", metavar="NAME", help="Images on which this class went most wrong.")
@click.option("--doubtful", is_flag=True, help="Images on which CLIP, its local views and the student disagree most.")
@click.option("--box-overlap", is_flag=True, help="Pairs of classes whose views coincide.")
@click.option(
    "--worst", "count", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="How many to list."
)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document, numbers in full, no overlay.")
def inspect(
    image: str | None,
    out: Path | None,
    force: bool,
    class_name: str | None,
    doubtful: bool,
    box_overlap: bool,
    count: int,
    as_json: bool,
) -> None:
    """Print one IMAGE's story (its id, path or file name) and write an overlay of its boxes; or list images to look at.

    Works on the data set that params.yaml names, after `dvc repro`. A file that is there already is not replaced
    without --force.

    \b
    Examples:
      ccd inspect train_00011.jpg
      ccd inspect --class bottle --worst 20
      ccd inspect --doubtful --json
    """
    from ccd.cli import overlay_command
    from ccd.errors import CcdError, user_errors
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams
    from ccd.report import inspect, inspect_text
    from ccd.report.overlay import write_overlay

    with user_errors():
        asked = sum((image is not None, class_name is not None, doubtful, box_overlap))
        if asked != 1:
            raise CcdError("name an IMAGE, or ask for --class NAME, --doubtful or --box-overlap (one of them)")
        dataset = load(DatasetParams)
        folder = Path("data") / dataset.name
        if image is not None:
            root = Path(dataset.root)
            if out is not None:
                overlay_command.check_overlay(out, root, force=force)
            story = inspect.image_story(folder, image)
            click.echo(
                inspect_text.as_json(inspect_text.story_data(story)) if as_json else inspect_text.story_text(story)
            )
            if out is not None:
                write_overlay(story, root, out)
                click.echo(f"wrote {out}", err=as_json)
            elif not as_json:
                said, there = overlay_command.save_default_overlay(story, inspect.image_ids(folder), root, force=force)
                click.echo(said, err=not there)
        elif class_name is not None:
            examples = inspect.worst(folder, class_name, count)
            click.echo(inspect_text.as_json(examples) if as_json else inspect_text.examples_text(examples))
        elif doubtful:
            doubts = inspect.doubtful(folder, count)
            click.echo(inspect_text.as_json(doubts) if as_json else inspect_text.doubts_text(doubts))
        else:
            overlaps = inspect.box_overlap(folder, count)
            click.echo(inspect_text.as_json(overlaps) if as_json else inspect_text.overlaps_text(overlaps))


@main.command(short_help="List what the pipeline has written, and from what.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document, with versions of libraries.")
def artifacts(as_json: bool) -> None:
    """List what the pipeline has written for the data set of params.yaml: rows, size, schema and md5, and what made it:
    stage, seconds (where this machine ran it) and parameters."""
    from ccd.errors import user_errors
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams
    from ccd.report import inspect_text
    from ccd.runtime.listing import artifact_list

    with user_errors():
        found = artifact_list(Path("data") / load(DatasetParams).name)
        click.echo(inspect_text.as_json(found) if as_json else inspect_text.artifacts_text(found))


@main.command(short_help="List, or make smaller, what saves repeated work.")
@click.option(
    "--prune", "limit_gb", type=click.FloatRange(0), metavar="GB", help="Delete the oldest down to this size."
)
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document.")
def store(limit_gb: float | None, as_json: bool) -> None:
    """List what is kept to resume killed stages and to encode no image twice (.ccd/store); --prune makes it smaller.

    Deleting from the store never changes a result, it only costs time.
    """
    from datetime import datetime

    from ccd.errors import user_errors
    from ccd.report.text_table import aligned
    from ccd.runtime.store import open_store

    with user_errors():
        kept = open_store()
        deleted = [] if limit_gb is None else kept.prune(round(limit_gb * 1e9))
        if as_json:
            click.echo(json.dumps({"entries": _entries(kept.entries()), "deleted": _entries(deleted)}, indent=2))
            return
        for entry in deleted:
            click.echo(f"deleted {entry.path.name}, {entry.size_bytes / 1e6:.1f} MB")
        rows = [["entry", "MB", "last used"]]
        for entry in reversed(kept.entries()):
            used = datetime.fromtimestamp(entry.used_s).isoformat(" ", "minutes")
            rows.append([entry.path.name, f"{entry.size_bytes / 1e6:.1f}", used])
        click.echo(aligned(rows) if len(rows) > 1 else f"the store in {kept.folder} is empty")


for command in (predict, thresholds, export, review):
    main.add_command(command)


def _entries(entries: list[Entry]) -> list[dict[str, object]]:
    return [
        {"name": entry.path.name, "bytes": entry.size_bytes, "used_s_since_1970": entry.used_s} for entry in entries
    ]


def _say_next(root: Path, preset: str) -> None:
    if preset != "demo" and not root.is_dir():
        click.echo(f"note: {root} is not there yet; give --root DIR, or `dvc repro` will say what belongs there")
    if Path("dvc.yaml").is_file():
        click.echo("now run: dvc repro")
    else:
        click.echo(
            "note: there is no dvc.yaml here, so `dvc repro` has no stages to run; for your own images make a project "
            "instead: ccd init DIR --images FOLDER"
        )


if __name__ == "__main__":
    main()
