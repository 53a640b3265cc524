"""``ccd init``: make a project for the user's own images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ccd.cli.options import device_option, print_licence_warning, recipe_option, shell_path
from ccd.errors import CcdError, user_errors
from ccd.params.recipes import INIT_DEFAULT

if TYPE_CHECKING:
    from ccd.project.settings import ProjectRequest
    from ccd.project.suggest import Download
    from ccd.project.survey import Survey

PATH = click.Path(path_type=Path)


@click.command(short_help="Make a project for your own images.")
@click.argument("folder", type=PATH, metavar="DIR")
@click.option("--images", type=PATH, metavar="FOLDER", help="Folder of your images, read with all its subfolders.")
@click.option(
    "--classes",
    type=PATH,
    metavar="FILE",
    help="Class names, one per line; default: classes.txt in DIR, or beside the images.",
)
@click.option(
    "--labels", type=PATH, metavar="FILE", help="CSV of labels for evaluation; default: labels.csv beside the images."
)
@click.option(
    "--teacher",
    metavar="NAME",
    help="A name of ccd teachers, hf-hub:ORG/NAME, a local checkpoint or folder; default: by hardware.",
)
@click.option(
    "--student", metavar="NAME", help="tiny, small, base, large, timm/NAME or a torchvision name; default: by hardware."
)
@click.option("--set", "settings", metavar="SECTION.KEY=VALUE", multiple=True, help="Change one value; repeatable.")
@recipe_option(INIT_DEFAULT)
@device_option
@click.option("--no-estimate", is_flag=True, hidden=True, help="Ignored: nothing is timed any more.")
@click.option("--force", is_flag=True, help="Replace the pipeline in DIR; files that you changed are kept as *.bak.")
@click.option("--upgrade", is_flag=True, help="Bring DIR's dvc.yaml and params.yaml to this version; keep your values.")
@click.option("--json", "as_json", is_flag=True, help="Print the survey of the images and the written files as JSON.")
def init(
    folder: Path,
    images: Path | None,
    classes: Path | None,
    labels: Path | None,
    teacher: str | None,
    student: str | None,
    settings: tuple[str, ...],
    recipe: str | None,
    device: str,
    no_estimate: bool,
    force: bool,
    upgrade: bool,
    as_json: bool,
) -> None:
    """Make a project for your own images in DIR: params.yaml, dvc.yaml and everything else that `dvc repro` needs.

    Images and classes are checked first: files that cannot be used are named and will be left out. Teacher and student
    are chosen to suit the hardware, all else as our studies recommend, or as the paper does with --recipe paper; the
    size of downloads and the disk space needed are printed. After an error, nothing is written. The images stay where
    they are.

    \b
    Examples:
      ccd init cats --images ~/photos --classes classes.txt
      ccd init cats --images ~/photos --teacher ViT-B/16 --student resnet50 --set train.epochs=4
      ccd init cats --images ~/photos --teacher clip.pt --set warmup.weights=resnet50.pt
      ccd init cats --images ~/photos --student small
      ccd init cats --upgrade        # after another version of ccd was installed
    """
    from ccd.project.create import check_project_folder
    from ccd.project.settings import ProjectRequest
    from ccd.project.suggest import suggest
    from ccd.runtime.hardware import find_device

    with user_errors():
        if upgrade:
            _upgrade(folder, recipe)
            return
        if images is None:
            raise CcdError("--images FOLDER is missing: the folder of your images")
        classes_file = classes or _default_classes_file(folder, images)
        check_project_folder(folder, images, classes_file, force=force)
        overrides = _overrides(settings, device)
        suggestion = suggest(find_device(device))
        recipe = recipe or INIT_DEFAULT
        request = ProjectRequest(folder, images, labels, suggestion, teacher, student, overrides, recipe)
        request.params(skip_bad=False)  # report invalid settings before the images are read, which takes long
        _make_project(request, classes_file, as_json)


def _make_project(request: ProjectRequest, classes_file: Path, as_json: bool) -> None:
    """Survey the images, and write the project that suits them; print both."""
    from ccd.params.presets import parameters

    survey = _survey_images(request.images, classes_file, request.labels)
    texts = request.texts(classes_file, len(survey.classes), skip_bad=bool(survey.index.skipped))
    _print_survey(survey, request, texts["params.yaml"], as_json)
    print_licence_warning(parameters(texts["params.yaml"]))
    missing, disk = _required_disk(request.folder, survey, texts["params.yaml"], as_json)
    content = _content(survey, request, texts["params.yaml"], missing) | {"disk_bytes": disk} if as_json else None
    write_project(request.folder, request.root, texts, content)


def write_project(folder: Path, images: str, texts: dict[str, str], content: dict[str, Any] | None) -> None:
    """Write the files, and print them with the commands to go on with: as JSON behind ``content``, or as text.

    ``images``: their folder, as ``dataset.root`` names it.
    """
    from ccd.project.create import commit_command, prepare_version_control, write_files, write_plot_template

    written, backups = write_files(folder, texts, images)
    commands = [f"cd {shell_path(folder)}", *prepare_version_control(folder), "dvc repro"]
    template = write_plot_template(folder)
    commit = commit_command(folder)
    written += [] if template is None else [template]
    if content is not None:
        files = {"wrote": [str(path) for path in written], "kept": [str(path) for path in backups]}
        click.echo(json.dumps({**content, **files, "next": commands, "commit": commit}, indent=2))
        return
    click.echo(f"wrote {', '.join(str(path) for path in written)}")
    _print_backups(backups)
    if commit is not None:
        click.echo(f"to keep a history, and before `dvc exp run`, commit in that folder: {commit}")
    first = [*commands[:-1], "dvc repro text clip_global", "ccd preview"]
    click.echo(f"first look what CLIP makes of the class names, in minutes: {' && '.join(first)}")
    click.echo(f"now run: {' && '.join(commands)}")


def _default_classes_file(folder: Path, images: Path) -> Path:
    own = folder / "classes.txt"
    return own if own.is_file() else images / "classes.txt"


def _overrides(settings: tuple[str, ...], device: str) -> dict[str, str]:
    from ccd.params.presets import settings_of

    own = {} if device == "auto" else {"runtime.device": device}
    return own | settings_of(settings)


def _survey_images(images: Path, classes: Path, labels: Path | None) -> Survey:
    from ccd.project.survey import survey_images
    from ccd.runtime.console import StageLog
    from ccd.runtime.hardware import worker_count

    log = StageLog("init")
    return survey_images(
        images, classes, labels, worker_count(None), lambda facts, count: log.progress(facts, count, "img")
    )


def _required_disk(folder: Path, survey: Survey, text: str, as_json: bool) -> tuple[list[Download], dict[str, int]]:
    """Return the missing downloads and the bytes of disk needed by purpose.

    Unless ``as_json``, print both. Warn on stderr about disks that are too full.
    """
    from ccd.params.presets import parameters
    from ccd.project.suggest import downloads
    from ccd.project.survey import Counts, disk_bytes, disk_line, shortages, size_text

    params = parameters(text)
    missing = downloads(params["teacher"]["model"], params["warmup"]["backbone"], params["warmup"]["weights"])
    disk = disk_bytes(params, Counts(survey.train_count, survey.test_count, len(survey.classes)), missing)
    if not as_json:
        for download in missing:
            click.echo(
                f"`dvc repro` will download the {download.role} {download.name}, {size_text(download.size_bytes)}; "
                f"without a network, fetch\n  {download.url}\n  yourself and {download.advice}"
            )
        click.echo(disk_line(disk))
    for line in shortages(disk, folder, missing):
        click.echo(line, err=True)
    return missing, disk


def _print_survey(survey: Survey, request: ProjectRequest, text: str, as_json: bool) -> None:
    from ccd.params.presets import parameters
    from ccd.params.recipes import recipe_line
    from ccd.params.teachers import hub_line
    from ccd.project.suggest import student_licence
    from ccd.project.survey import survey_lines

    if as_json:
        return
    params = parameters(text)
    click.echo("\n".join(survey_lines(survey)))
    if survey.index.skipped:
        click.echo("files that cannot be used will be left out (index.on_bad_image: skip)")
    teacher = f"{params['teacher']['model']} at {params['clip_global']['image_size_px']} px"
    student = f"{params['warmup']['backbone']} at {params['train']['image_size_px']} px"
    click.echo(f"hardware: {request.suggestion.reason}\nteacher: {teacher}; student: {student}")
    click.echo(hub_line(params["teacher"]["model"]) or "other teachers for each kind of hardware: ccd teachers")
    licence = student_licence(params["warmup"]["backbone"], params["warmup"]["weights"])
    if licence is not None:
        click.echo(f"licence of the student's initial weights, as timm states it: {licence}")
    click.echo(recipe_line(params, request.recipe))
    if params["text"]["background_words"]:
        click.echo(
            "background words (sky, wall, ...) compete with the classes: most images without any stay unlabelled"
        )
    elif params["global_labels"]["none_rule"] == "off":
        click.echo(
            "images that show none of the classes are not looked for, so they get labels too (global_labels.none_rule)"
        )


def _content(survey: Survey, request: ProjectRequest, text: str, missing: list[Download]) -> dict[str, Any]:
    from ccd.params.presets import parameters
    from ccd.params.recipes import own_values
    from ccd.params.teachers import weights_licence
    from ccd.project.suggest import student_licence
    from ccd.project.survey import survey_remarks

    params = parameters(text)
    chosen = params["teacher"]
    licence = weights_licence(chosen["backend"], chosen["model"], chosen["pretrained"])
    return {
        "directory": str(request.folder),
        "images": {
            "train": survey.train_count,
            "test": survey.test_count,
            "labelled": survey.labelled,
            "formats": survey.formats,
            "median_size_px": list(survey.median_size_px),
        },
        "left_out": dict(survey.left_out),
        "remarks": survey_remarks(survey),
        "bad_files": [{"path": each.path, "reason": each.reason} for each in survey.index.skipped],
        "classes": [info.name for info in survey.classes],
        "hardware": request.suggestion.reason,
        "recipe": request.recipe,
        "own_values": own_values(params, request.recipe),
        "teacher": params["teacher"]["model"],
        "teacher_licence": None if licence is None else licence.name,
        "student": params["warmup"]["backbone"],
        "student_licence": student_licence(params["warmup"]["backbone"], params["warmup"]["weights"]),
        "downloads": [
            {
                "role": download.role,
                "name": download.name,
                "url": download.url,
                "target": str(download.target),
                "bytes": download.size_bytes,
            }
            for download in missing
        ],
    }


def _upgrade(folder: Path, recipe: str | None) -> None:
    from ccd.artifacts.existing import keep_old
    from ccd.artifacts.files import write_text
    from ccd.params.presets import upgraded_params
    from ccd.project.create import write_plot_template
    from ccd.project.pipeline import upgraded_text

    if recipe is not None:
        raise CcdError(
            "--upgrade keeps your values, so it takes no --recipe; to start over with another recipe: "
            f"ccd init {shell_path(folder)} --images FOLDER --force --recipe {recipe}"
        )
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
        backup = keep_old(path)
        write_text(path, new)
        click.echo(f"{path}: upgraded to this version")
        _print_backups([] if backup is None else [backup])
    template = write_plot_template(folder)
    if template is not None:
        click.echo(f"wrote {template} for `dvc plots show`")
    click.echo(f"now run: cd {shell_path(folder)} && dvc repro")


def _print_backups(backups: list[Path]) -> None:
    if backups:
        click.echo(f"kept the old files as {', '.join(str(path) for path in backups)}")
