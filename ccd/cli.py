"""The command line: ``ccd use`` and, in time, what people do beside ``dvc repro``. Imports are inside commands, so that
``ccd --help`` is instant."""

from __future__ import annotations

from pathlib import Path

import click

from ccd import __version__


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


def _say_next(root: Path, preset: str) -> None:
    if preset != "demo" and not root.is_dir():
        click.echo(f"note: {root} is not there yet; give --root DIR, or `dvc repro` will say what belongs there")
    click.echo("now run: dvc repro")


if __name__ == "__main__":
    main()
