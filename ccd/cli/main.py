"""The ``ccd`` command and its smaller subcommands.

Subcommands import their libraries inside their functions, so that ``ccd --help`` starts at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd import __version__
from ccd.cli.demo_command import demo
from ccd.cli.export_command import export
from ccd.cli.init_command import init
from ccd.cli.look_commands import open_command, preview, teachers
from ccd.cli.options import print_licence_warning, recipe_option
from ccd.cli.predict_command import predict
from ccd.cli.review_command import review
from ccd.cli.thresholds_command import thresholds
from ccd.errors import CcdError, Interruptible, url_of, user_errors
from ccd.params.recipes import default_rule

if TYPE_CHECKING:
    from ccd.runtime.store import Entry


class InOrder(Interruptible, click.Group):
    """List commands in the order in which a user needs them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of the commands in the order they were added."""
        return list(self.commands)


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 2 invalid input, 3 done but some files or rows were left out, 130 interrupted. "
    "Run dvc repro after init, use or demo; the other commands need its results. Documentation: docs/cli.md.",
)
@click.version_option(__version__, prog_name="ccd")
@click.option("--debug", is_flag=True, help="Show the traceback of an error. CCD_DEBUG=1 does the same for stages.")
def main(debug: bool) -> None:
    """Train a multi-label classifier from unlabelled images and class names (CCD, CVPR 2025)."""
    if debug:
        os.environ["CCD_DEBUG"] = "1"


main.add_command(init)


@main.command(short_help="Write params.yaml for a data set; list presets, recipes.")
@click.argument("preset", required=False)
@click.option("--root", metavar="DIR", help="Folder of the data set.")
@click.option("--set", "settings", metavar="SECTION.KEY=VALUE", multiple=True, help="Change one value; repeatable.")
@recipe_option(default_rule())
@click.option("--force", is_flag=True, help="Also replace the params.yaml of a project made by ccd init.")
@click.option("--json", "as_json", is_flag=True, help="Print presets and recipes, or the changes, as JSON.")
def use(
    preset: str | None, root: str | None, settings: tuple[str, ...], recipe: str | None, force: bool, as_json: bool
) -> None:
    """Write params.yaml with the values of PRESET and comments that explain them. Without PRESET, list presets and
    recipes.

    All sections except 'runtime' are reset to the preset's values, as the paper has them or with those that our studies
    recommend. The changes are printed, and a params.yaml with
    values of your own is kept as params.yaml.bak. Artifacts of other data sets stay, and DVC restores their results
    when you switch back. This command is for a clone of the repository; for your own images, use `ccd init`.
    """
    from ccd.artifacts.corrections_file import ensure, path_of
    from ccd.params.file import PARAMS_FILE, load
    from ccd.params.presets import apply_preset, changes, check_replaceable, parameters, replace_params, settings_of
    from ccd.params.recipes import default_recipe, own_values, recipe_line
    from ccd.params.sections import DatasetParams

    with user_errors():
        if preset is None:
            _list_presets(as_json)
            return
        check_replaceable(force=force)
        old = PARAMS_FILE.read_text(encoding="utf-8", errors="replace") if PARAMS_FILE.exists() else None
        recipe = recipe or default_recipe(preset)
        new = apply_preset(preset, root, settings_of(settings), old, recipe=recipe)
        backup = replace_params(old, new)
        if backup is not None:
            click.echo(f"kept the old {PARAMS_FILE} as {backup}", err=as_json)
        dataset = load(DatasetParams)
        corrections = path_of(dataset.name)
        if ensure(corrections):
            click.echo(f"wrote {corrections}, the file for manual corrections (ccd review --help)", err=as_json)
        print_licence_warning(parameters(new))
        lines = changes(old, new) if old is not None else []
        if as_json:
            content = {"wrote": str(PARAMS_FILE), "kept": None if backup is None else str(backup), "changes": lines}
            own = {"recipe": recipe, "own_values": own_values(parameters(new), recipe)}
            click.echo(json.dumps(content | own, indent=2, ensure_ascii=False))
            return
        click.echo("\n".join(lines) if lines else f"{PARAMS_FILE}: no value changed" if old else f"wrote {PARAMS_FILE}")
        click.echo(recipe_line(parameters(new), recipe))
        _print_next_step(Path(dataset.root), preset)


main.add_command(demo)
main.add_command(teachers)


@main.command(short_help="Tell how an image got its labels; list images to check.")
@click.argument("image", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="File for the overlay; default: NAME.overlay.png.")
@click.option("--force", is_flag=True, help="Replace an existing overlay.")
@click.option("--class", "class_name", metavar="NAME", help="List the images with the largest errors for this class.")
@click.option(
    "--doubtful",
    is_flag=True,
    help="List the images on which CLIP, its views (crops that it reads by themselves) and the student disagree most.",
)
@click.option("--box-overlap", is_flag=True, help="List the pairs of classes whose views coincide.")
@click.option(
    "--worst", "count", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="Length of the list."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with numbers in full; no overlay by default.")
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
    """Print how IMAGE (an id, path or file name) got its labels and write an overlay of its boxes; or list images to
    check.

    Reads the results of `dvc repro` for the data set in params.yaml. Existing files are replaced only with --force.

    \b
    Examples:
      ccd inspect train_00011.jpg
      ccd inspect --class bottle --worst 20
      ccd inspect --doubtful --json
    """
    from ccd.cli import overlay_command
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams
    from ccd.report import inspect, inspect_text
    from ccd.report.overlay import write_overlay

    with user_errors():
        if sum((image is not None, class_name is not None, doubtful, box_overlap)) != 1:
            raise CcdError("give exactly one of IMAGE, --class NAME, --doubtful and --box-overlap")
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
                message, is_saved = overlay_command.save_default_overlay(
                    story, inspect.image_ids(folder), root, force=force
                )
                click.echo(message, err=not is_saved)
        elif class_name is not None:
            examples = inspect.worst(folder, class_name, count)
            click.echo(inspect_text.as_json(examples) if as_json else inspect_text.examples_text(examples))
        elif doubtful:
            doubts = inspect.doubtful(folder, count)
            click.echo(inspect_text.as_json(doubts) if as_json else inspect_text.doubts_text(doubts))
        else:
            overlaps = inspect.box_overlap(folder, count)
            click.echo(inspect_text.as_json(overlaps) if as_json else inspect_text.overlaps_text(overlaps))


@main.command(short_help="List the pipeline's artifacts and how they were made.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the versions of libraries.")
def artifacts(as_json: bool) -> None:
    """List the artifacts of the data set in params.yaml: rows, size, schema and md5, and the stage that made each, its
    seconds (if it ran on this machine) and its parameters."""
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams
    from ccd.report import inspect_text
    from ccd.runtime.listing import artifact_list

    with user_errors():
        records = artifact_list(Path("data") / load(DatasetParams).name)
        click.echo(inspect_text.as_json(records) if as_json else inspect_text.artifacts_text(records))


@main.command(short_help="List or prune the store of unfinished and reusable work.")
@click.option(
    "--prune", "limit_gb", type=click.FloatRange(0), metavar="GB", help="Delete the oldest entries down to this size."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def store(limit_gb: float | None, as_json: bool) -> None:
    """List or --prune the store (.ccd/store), which lets killed stages resume and saves encoding an image twice.

    Deleting entries never changes a result; it only costs time.
    """
    from datetime import datetime

    from ccd.report.text_table import aligned
    from ccd.runtime.store import open_store

    with user_errors():
        opened = open_store()
        deleted = [] if limit_gb is None else opened.prune(round(limit_gb * 1e9))
        if as_json:
            click.echo(json.dumps({"entries": _entries(opened.entries()), "deleted": _entries(deleted)}, indent=2))
            return
        for entry in deleted:
            click.echo(f"deleted {entry.path.name}, {entry.size_bytes / 1e6:.1f} MB")
        rows = [["entry", "MB", "last used"]]
        for entry in reversed(opened.entries()):
            used = datetime.fromtimestamp(entry.used_s).isoformat(" ", "minutes")
            rows.append([entry.path.name, f"{entry.size_bytes / 1e6:.1f}", used])
        click.echo(aligned(rows) if len(rows) > 1 else f"the store in {opened.folder} is empty")


for command in (preview, open_command, predict, thresholds, export, review):
    main.add_command(command)


def _entries(entries: list[Entry]) -> list[dict[str, object]]:
    return [
        {"name": entry.path.name, "bytes": entry.size_bytes, "used_s_since_1970": entry.used_s} for entry in entries
    ]


def _list_presets(as_json: bool) -> None:
    from ccd.params.presets import presets
    from ccd.params.recipes import default_recipe, recipes

    found = presets()
    if as_json:
        defaults = {preset: default_recipe(preset) for preset in found}
        content = {"presets": found, "recipes": recipes(), "default_recipes": defaults}
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    click.echo("\n".join(f"{name:12} {summary}" for name, summary in found.items()))
    click.echo(f"\nrecipes (--recipe; default: {default_rule()}):")
    click.echo("\n".join(f"{name:12} {summary}" for name, summary in recipes().items()))


def _print_next_step(root: Path, preset: str) -> None:
    if preset != "demo" and url_of(root) is None and not root.exists():
        click.echo(f"note: {root} does not exist yet; give --root DIR, or `dvc repro` will tell what to put there")
    if Path("dvc.yaml").is_file():
        click.echo("now run: dvc repro")
    else:
        click.echo(
            "note: there is no dvc.yaml here, so `dvc repro` has no stages to run; for your own images, make a "
            "project: ccd init DIR --images FOLDER"
        )


if __name__ == "__main__":
    main()
