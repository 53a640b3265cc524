"""Writing a project: all of its files or none, then git and DVC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ccd.artifacts.existing import keep_old
from ccd.artifacts.files import replacing, write_text
from ccd.errors import CcdError, listed
from ccd.params.file import PARAMS_FILE
from ccd.project.settings import CLASSES_NAME

PIPELINE_FILE = Path("dvc.yaml")
_TEMPLATE = Path(__file__).with_name("sorted_bars.json")  # the same as the repository's .dvc/plots/sorted_bars.json
_IGNORED = ("/data/", "/.ccd/", ".venv/", "__pycache__/", "*.overlay.png", "*.bak", "*.tuned.pt", "/review/")
_HAND_WORK = ("README.md", "corrections/")  # what is there stays
_REPLACED = ("params.yaml", "dvc.yaml", CLASSES_NAME)  # what is there was written by a person, or may have been
_NOT_WALKED = ("/.ccd/", ".venv/", "__pycache__/")


def check_place(folder: Path, images: Path, classes: Path, *, force: bool) -> None:
    """Refuse a folder that cannot become a project, before anything is looked at.

    Raises:
        CcdError: no folder, a pipeline is there already, its modules would hide ccd's, or it would index its own
            output.
    """
    if folder.exists() and not folder.is_dir():
        raise CcdError(f"{folder} is a file; name a folder for the project")
    if not images.is_dir():
        raise CcdError(f"{images} is not a folder; give the folder of your images as --images")
    if not classes.is_file():
        raise CcdError(f"{classes} is not there; write the class names into a file, one a line: --classes FILE")
    place = folder.resolve()
    pictures = images.resolve()
    if place.is_relative_to(pictures):
        raise CcdError(
            f"{folder} lies in the folder of images, so its own pictures would be taken for some of them; "
            f"make the project beside it, or keep the images in a folder below it"
        )
    hiding = [name for name in ("ccd", "stages") if (folder / name / "__init__.py").is_file()]
    if hiding:
        raise CcdError(f"{folder} holds Python packages called {listed(hiding)}, which hide ccd's; use another folder")
    existing = [name for name in (PIPELINE_FILE, PARAMS_FILE) if (folder / name).exists()]
    if existing and not force:
        raise CcdError(f"{folder} already holds {listed(existing)}; --force replaces them, --upgrade keeps your values")
    copy = folder / CLASSES_NAME
    if copy.exists() and not force and copy.read_bytes() != classes.read_bytes():
        raise CcdError(f"{copy} is there already and differs from {classes}; remove one, or use --force")


def write_files(folder: Path, texts: Mapping[str, str], images: str) -> tuple[list[Path], list[Path]]:
    """Write the project's files; if one fails, all is as it was before. `_HAND_WORK` stays.

    Args:
        texts: file name -> text.
        images: the images' folder as ``dataset.root`` names it; inside the project, git and DVC do not look there.

    Returns:
        The project's files, and copies of those that were there with other content (`ccd.artifacts.files.keep_old`).
    """
    inside = [] if os.path.isabs(images) else [f"/{images.strip('/')}/"]  # noqa: PTH117
    texts = {
        **texts,
        ".gitignore": _with_lines(folder / ".gitignore", [*_IGNORED, *inside]),
        ".dvcignore": _with_lines(folder / ".dvcignore", [*_NOT_WALKED, *inside]),
    }
    new_folder = not folder.exists()
    kept = []
    before: dict[Path, bytes | None] = {}
    try:
        for name, text in texts.items():
            path = folder / name
            if path.exists() and (name.startswith(_HAND_WORK) or _holds(path, text)):
                continue
            copy = keep_old(path) if name in _REPLACED else None
            kept += [] if copy is None else [copy]
            old = path.read_bytes() if path.is_file() else None
            write_text(path, text)
            before[path] = old
    except BaseException:
        _take_back(folder, before)
        if new_folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return [folder / name for name in texts], kept


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode("utf-8")


def _take_back(folder: Path, before: Mapping[Path, bytes | None]) -> None:
    """Give files the content that they had before, and delete those that are new."""
    for path, content in before.items():
        if content is not None:
            path.write_bytes(content)
            continue
        path.unlink(missing_ok=True)
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()


def prepare_version_control(folder: Path) -> list[str]:
    """Make ``folder`` a git and DVC repository where it is none. Returns the commands that failed, for the user."""
    if (folder / ".dvc").is_dir():
        return []
    has_git = shutil.which("git") is not None
    failed = []
    top = _output(["git", "rev-parse", "--show-toplevel"], folder) if has_git else None
    if has_git and top is None:
        if _output(["git", "init", "--quiet"], folder) is None:
            return ["git init", "dvc init"]
        top = str(folder.resolve())
    command = ["dvc", "init", "--quiet"]
    if top is None:
        command.append("--no-scm")
    elif Path(top).resolve() != folder.resolve():
        command.append("--subdir")
    if _output([sys.executable, "-m", *command], folder) is None:
        failed.append(" ".join(word for word in command if word != "--quiet"))
    return failed


def write_plot_template(folder: Path) -> Path | None:
    """Give a DVC project the template that its ``dvc.yaml`` draws bars with; one that is there stays.

    Returns:
        The file, if it was written.
    """
    path = folder / ".dvc/plots/sorted_bars.json"
    if not (folder / ".dvc").is_dir() or path.exists():
        return None
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(_TEMPLATE.read_bytes())
    return path


def commit_command(folder: Path) -> str | None:
    """What to type in ``folder`` so that DVC's experiments have a commit to start from; None without git."""
    if shutil.which("git") is None or _output(["git", "rev-parse", "--show-toplevel"], folder) is None:
        return None
    return "git add . && git commit -m 'a project of ccd init'"


def _output(command: list[str], folder: Path) -> str | None:
    """What a command prints; None if it fails."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _with_lines(path: Path, lines: list[str]) -> str:
    """The text of an ignore file with ``lines`` added where they are missing."""
    known = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return "\n".join([*known, *(line for line in lines if line not in known)]) + "\n"
