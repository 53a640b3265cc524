"""``ccd init``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ccd.cli.options import device_option, in_shell, mendable

if TYPE_CHECKING:
    from ccd.project.suggest import Download, Suggestion
    from ccd.project.survey import Survey

PATH = click.Path(path_type=Path)


@click.command(short_help="Make a project for your own images.")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--images", type=PATH, metavar="FOLDER", help="Your images, with all folders below; they stay there.")
@click.option(
    "--classes",
    type=PATH,
    metavar="FILE",
    help="Class names, one a line; default: classes.txt in DIR, or beside the images.",
)
@click.option(
    "--labels", type=PATH, metavar="FILE", help="CSV of labels to measure with; default: labels.csv beside the images."
)
@click.option("--teacher", metavar="NAME", help="CLIP: an OpenAI name or a local checkpoint; default: by the hardware.")
@click.option("--student", metavar="NAME", help="torchvision backbone of the classifier; default: by the hardware.")
@click.option("--set", "settings", metavar="SECTION.KEY=VALUE", multiple=True, help="Change one value; repeatable.")
@device_option
@click.option("--no-estimate", is_flag=True, hidden=True, help="Without effect: nothing is timed any more.")
@click.option("--force", is_flag=True, help="Replace the pipeline that DIR holds; what you changed is kept as *.bak.")
@click.option("--upgrade", is_flag=True, help="Bring DIR's dvc.yaml and params.yaml to this version; keep your values.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found and written as one JSON document.")
def init(
    folder: Path,
    images: Path | None,
    classes: Path | None,
    labels: Path | None,
    teacher: str | None,
    student: str | None,
    settings: tuple[str, ...],
    device: str,
    no_estimate: bool,
    force: bool,
    upgrade: bool,
    as_json: bool,
) -> None:
    """Make a project for your own images in DIR: params.yaml, dvc.yaml, and all that `dvc repro` needs.

    Images and classes are checked first: files that cannot be used are named, and will be left out. Teacher and
    student are chosen to suit the hardware; what will be downloaded and how much disk is needed is told. After a
    mistake nothing is written. The images stay where they are.

    \b
    Examples:
      ccd init cats --images ~/photos --classes classes.txt
      ccd init cats --images ~/photos --teacher ViT-B/16 --student resnet50 --set train.epochs=4
      ccd init cats --images ~/photos --teacher clip.pt --set warmup.weights=resnet50.pt
      ccd init cats --upgrade        # after another version of ccd was installed
    """
    from ccd.errors import CcdError
    from ccd.project.create import (
        check_place,
        commit_command,
        prepare_version_control,
        write_files,
        write_plot_template,
    )
    from ccd.project.settings import ProjectRequest
    from ccd.project.suggest import suggest
    from ccd.runtime.hardware import find_device

    with mendable():
        if upgrade:
            _upgrade(folder)
            return
        if images is None:
            raise CcdError("--images FOLDER is missing: the folder of your images")
        list_of_classes = classes or _list_of_classes(folder, images)
        check_place(folder, images, list_of_classes, force=force)
        asked = ProjectRequest(
            folder, images, labels, suggest(find_device(device)), teacher, student, _chosen(settings, device)
        )
        asked.params(skip_bad=False)  # a mistake in it is found before all images are read
        found = _look(images, list_of_classes, labels)
        texts = asked.texts(list_of_classes, len(found.classes), skip_bad=bool(found.index.skipped))
        _tell(found, asked.suggestion, texts["params.yaml"], as_json)
        wanted, needed = _needs(folder, found, texts["params.yaml"], as_json)
        written, kept = write_files(folder, texts, asked.root)
        commands = [f"cd {in_shell(folder)}", *prepare_version_control(folder), "dvc repro"]
        template = write_plot_template(folder)
        commit = commit_command(folder)
        written += [] if template is None else [template]
        if as_json:
            content = _content(folder, found, asked.suggestion, texts["params.yaml"], wanted) | {"disk_bytes": needed}
            files = {"wrote": [str(path) for path in written], "kept": [str(path) for path in kept]}
            click.echo(json.dumps({**content, **files, "next": commands, "commit": commit}, indent=2))
        else:
            click.echo(f"wrote {', '.join(str(path) for path in written)}")
            _tell_kept(kept)
            if commit is not None:
                click.echo(f"to keep its history, and before `dvc exp run`, there: {commit}")
            click.echo(f"now run: {' && '.join(commands)}")


def _list_of_classes(folder: Path, images: Path) -> Path:
    own = folder / "classes.txt"
    return own if own.is_file() else images / "classes.txt"


def _chosen(settings: tuple[str, ...], device: str) -> dict[str, str]:
    from ccd.params.presets import settings_of

    own = {} if device == "auto" else {"runtime.device": device}
    return own | settings_of(settings)


def _look(images: Path, classes: Path, labels: Path | None) -> Survey:
    from ccd.project.survey import survey
    from ccd.runtime.console import StageLog
    from ccd.runtime.hardware import worker_count

    log = StageLog("init")
    return survey(images, classes, labels, worker_count(None), lambda each, n: log.progress(each, n, "img"))


def _needs(folder: Path, found: Survey, text: str, as_json: bool) -> tuple[list[Download], dict[str, int]]:
    """What will be downloaded, and the disk that is needed; a person is told, also where it does not fit."""
    from ccd.params.presets import parameters
    from ccd.project.suggest import downloads
    from ccd.project.survey import Counts, disk_bytes, disk_line, shortages, size_text

    params = parameters(text)
    wanted = downloads(params["teacher"]["model"], params["warmup"]["backbone"], params["warmup"]["weights"])
    needed = disk_bytes(params, Counts(found.train_count, found.test_count, len(found.classes)), wanted)
    if not as_json:
        for each in wanted:
            click.echo(
                f"`dvc repro` will download {each.role} {each.name}, {size_text(each.size_bytes)}; without a "
                f"network, put\n  {each.url}\n  there yourself: {each.target}"
            )
        click.echo(disk_line(needed))
    for line in shortages(needed, folder, wanted):
        click.echo(line, err=True)
    return wanted, needed


def _tell(found: Survey, suggestion: Suggestion, text: str, as_json: bool) -> None:
    from ccd.params.presets import parameters
    from ccd.project.survey import survey_lines

    if as_json:
        return
    params = parameters(text)
    click.echo("\n".join(survey_lines(found)))
    if found.index.skipped:
        click.echo("files that cannot be used will be left out (index.on_bad_image: skip)")
    teacher = f"{params['teacher']['model']} at {params['clip_global']['image_size_px']} px"
    student = f"{params['warmup']['backbone']} at {params['train']['image_size_px']} px"
    click.echo(f"hardware: {suggestion.reason}\nteacher: {teacher}; student: {student}")
    if params["global_labels"]["none_rule"] == "off":
        click.echo(
            "images that show none of the classes are not looked for, and get labels too (global_labels.none_rule)"
        )


def _content(folder: Path, found: Survey, suggestion: Suggestion, text: str, wanted: list[Download]) -> dict[str, Any]:
    from ccd.params.presets import parameters
    from ccd.project.survey import survey_remarks

    params = parameters(text)
    return {
        "directory": str(folder),
        "images": {
            "train": found.train_count,
            "test": found.test_count,
            "labelled": found.labelled,
            "formats": found.formats,
            "median_size_px": list(found.median_size_px),
        },
        "left_out": dict(found.left_out),
        "remarks": survey_remarks(found),
        "bad_files": [{"path": each.path, "reason": each.reason} for each in found.index.skipped],
        "classes": [info.name for info in found.classes],
        "hardware": suggestion.reason,
        "teacher": params["teacher"]["model"],
        "student": params["warmup"]["backbone"],
        "downloads": [
            {
                "role": each.role,
                "name": each.name,
                "url": each.url,
                "target": str(each.target),
                "bytes": each.size_bytes,
            }
            for each in wanted
        ],
    }


def _upgrade(folder: Path) -> None:
    from ccd.artifacts.existing import keep_old
    from ccd.artifacts.files import write_text
    from ccd.errors import CcdError
    from ccd.params.presets import upgraded_params
    from ccd.project.create import write_plot_template
    from ccd.project.pipeline import upgraded_text

    texts = {}
    for name, upgraded in (("dvc.yaml", upgraded_text), ("params.yaml", upgraded_params)):
        path = folder / name
        if not path.is_file():
            raise CcdError(f"{path} does not exist; give the folder of a project that ccd init made")
        old = path.read_text(encoding="utf-8", errors="replace")
        texts[path] = (old, upgraded(old))
    for path, (old, new) in texts.items():
        if new == old:
            click.echo(f"{path}: nothing to change")
            continue
        kept = keep_old(path)
        write_text(path, new)
        click.echo(f"{path}: brought to this version")
        _tell_kept([] if kept is None else [kept])
    template = write_plot_template(folder)
    if template is not None:
        click.echo(f"wrote {template}, for dvc plots show")
    click.echo(f"now run: cd {in_shell(folder)} && dvc repro")


def _tell_kept(kept: list[Path]) -> None:
    if kept:
        click.echo(f"kept what was there as {', '.join(str(path) for path in kept)}")
