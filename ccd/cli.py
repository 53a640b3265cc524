"""The command line: what people do beside ``dvc repro``. Imports are inside commands, so that ``ccd --help`` is
instant."""

from __future__ import annotations

from pathlib import Path

import click

from ccd import __version__
from ccd.commands.export import export
from ccd.commands.predict import predict
from ccd.commands.thresholds import thresholds


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ccd")
def main() -> None:
    """Unlabelled images and class names in, a multi-label classifier out (CCD, CVPR 2025)."""


@main.command()
@click.argument("preset", required=False)
@click.option("--root", metavar="DIR", help="Folder of the data set.")
@click.option("--set", "settings", metavar="SECTION.KEY=VALUE", multiple=True, help="Change one value; repeatable.")
def use(preset: str | None, root: str | None, settings: tuple[str, ...]) -> None:
    """Write params.yaml for a data set: the PRESET's values, comments kept. Without PRESET, list them.

    Everything goes back to the preset's values except section 'runtime'; what changes is printed. Artifacts of other
    data sets stay, and DVC brings their results back when you return.
    """
    from ccd.artifacts.atomic import replacing
    from ccd.console import user_errors
    from ccd.errors import CcdError
    from ccd.params.base import PARAMS_FILE, load
    from ccd.params.dataset import DatasetParams
    from ccd.use import apply_preset, changes, presets

    with user_errors():
        if preset is None:
            click.echo("\n".join(f"{name:12} {what}" for name, what in presets().items()))
            return
        wrong = [setting for setting in settings if "=" not in setting]
        if wrong:
            raise CcdError(f"--set {wrong[0]}: write SECTION.KEY=VALUE, e.g. --set aggregate.alpha=0.2")
        old = PARAMS_FILE.read_text(encoding="utf-8") if PARAMS_FILE.exists() else None
        new = apply_preset(preset, root, dict(setting.split("=", 1) for setting in settings), old)
        with replacing(PARAMS_FILE) as temporary:
            temporary.write_text(new, encoding="utf-8")
        lines = changes(old, new) if old is not None else []
        click.echo("\n".join(lines) if lines else f"{PARAMS_FILE}: no value changed" if old else f"wrote {PARAMS_FILE}")
        _say_next(Path(load(DatasetParams).root), preset)


@main.command()
@click.argument("image", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the overlay PNG; default: IMAGE's id.")
@click.option("--class", "class_name", metavar="NAME", help="Images on which this class went most wrong.")
@click.option("--worst", "count", default=20, show_default=True, help="How many images to list.")
@click.option("--doubtful", is_flag=True, help="Images on which global, local and final label disagree most.")
@click.option("--box-overlap", is_flag=True, help="Pairs of classes whose views coincide.")
def inspect(
    image: str | None, out: Path | None, class_name: str | None, count: int, doubtful: bool, box_overlap: bool
) -> None:
    """Print one IMAGE's story (its id, path or file name) and write an overlay of its boxes; or list images to look at.

    Works on the data set that params.yaml names, after `dvc repro`.
    """
    from ccd import inspect as library, inspect_text as texts
    from ccd.console import user_errors
    from ccd.errors import CcdError
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams

    with user_errors():
        dataset = load(DatasetParams)
        folder = Path("data") / dataset.name
        if image is not None:
            story = library.image_story(folder, image)
            click.echo(texts.story_text(story))
            target = out or Path(f"{Path(story.image_id).stem}.overlay.png")
            texts.write_overlay(story, Path(dataset.root), target)
            click.echo(f"wrote {target}")
        elif class_name is not None:
            click.echo(texts.examples_text(library.worst(folder, class_name, count)))
        elif doubtful:
            click.echo(texts.examples_text(library.doubtful(folder, count)))
        elif box_overlap:
            click.echo(texts.overlaps_text(library.box_overlap(folder, count)))
        else:
            raise CcdError("name an IMAGE, or ask for --class NAME, --doubtful or --box-overlap")


@main.command()
def artifacts() -> None:
    """List what the pipeline has written for the data set of params.yaml: rows, size, schema, md5 and stage."""
    from ccd.artifacts.listing import artifact_list
    from ccd.console import user_errors
    from ccd.inspect_text import aligned
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams

    with user_errors():
        found = artifact_list(Path("data") / load(DatasetParams).name)
        rows = [["file", "rows", "MB", "schema", "md5", "made by"]]
        rows += [
            [each.path.name, "" if each.rows is None else f"{each.rows:,}", f"{each.size_bytes / 1e6:.2f}", each.schema,
             each.md5[:8], each.made_by]
            for each in found
        ]  # fmt: skip
        click.echo(aligned(rows))


for command in (predict, thresholds, export):
    main.add_command(command)


def _say_next(root: Path, preset: str) -> None:
    if preset != "demo" and not root.is_dir():
        click.echo(f"note: {root} is not there yet; give --root DIR, or `dvc repro` will say what belongs there")
    click.echo("now run: dvc repro")


if __name__ == "__main__":
    main()
