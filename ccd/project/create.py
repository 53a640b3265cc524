"""Write a project, all of its files or none, and set up git and DVC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ccd.artifacts.existing import keep_old
from ccd.artifacts.files import replacing, write_text
from ccd.datasets.manifest import check_root
from ccd.errors import CcdError, listed, url_of
from ccd.images.remote import is_table
from ccd.params.file import PARAMS_FILE
from ccd.project.settings import CLASSES_NAME

PIPELINE_FILE = Path("dvc.yaml")
_TEMPLATE = Path(__file__).with_name("sorted_bars.json")  # the same as the repository's .dvc/plots/sorted_bars.json
_IGNORED = ("/data/", "/.ccd/", ".venv/", "__pycache__/", "*.overlay.png", "*.bak", "*.tuned.pt", "/review/")
_HAND_WORK = ("README.md", "corrections/")  # existing files stay
_REPLACED = ("params.yaml", "dvc.yaml", CLASSES_NAME)  # existing files may hold changes by the user: back them up
_NOT_WALKED = ("/.ccd/", ".venv/", "__pycache__/")


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that cannot become a project, whatever its images.

    Raises:
        CcdError: ``folder`` is no folder, holds a package that hides ccd's, or holds a pipeline and ``force`` is false.
    """
    if folder.exists() and not folder.is_dir():
        raise CcdError(f"{folder} is a file; give a folder for the project")
    hiding = [name for name in ("ccd", "stages") if (folder / name / "__init__.py").is_file()]
    if hiding:
        raise CcdError(f"{folder} holds Python packages called {listed(hiding)}, which hide ccd's; use another folder")
    existing = [name for name in (PIPELINE_FILE, PARAMS_FILE) if (folder / name).exists()]
    if existing and not force:
        raise CcdError(f"{folder} already holds {listed(existing)}; --force replaces them, --upgrade keeps your values")


def check_project_folder(folder: Path, images: Path, classes: Path, *, force: bool) -> None:
    """Refuse a folder that cannot become a project of ``images``, before any image is read.

    Raises:
        CcdError: see `check_folder`; ``images`` is no folder, ``classes`` is no file, or ``folder`` lies in ``images``
            (its output would be indexed) or holds another list of classes and ``force`` is false.
    """
    check_folder(folder, force=force)
    check_root(images)
    if url_of(images) is None and not images.is_dir() and not (is_table(images) and images.is_file()):
        raise CcdError(f"{images} is not a folder; give the folder of your images as --images")
    if not classes.is_file():
        raise CcdError(f"{classes} does not exist; write the class names into a file, one per line: --classes FILE")
    if folder.resolve().is_relative_to(images.resolve()):
        raise CcdError(
            f"{folder} lies in the folder of images, so its own pictures would be indexed as images; "
            f"make the project beside it, or keep the images in a folder below it"
        )
    copy = folder / CLASSES_NAME
    if copy.exists() and not force and copy.read_bytes() != classes.read_bytes():
        raise CcdError(f"{copy} already exists and differs from {classes}; delete one, or use --force")


def write_files(folder: Path, texts: Mapping[str, str], images: str) -> tuple[list[Path], list[Path]]:
    """Write the project's files, or restore all of them if one fails. Existing files of `_HAND_WORK` stay.

    Args:
        texts: file name -> text.
        images: the folder of images as ``dataset.root`` names it; if it lies in the project, git and DVC ignore it.

    Returns:
        The project's files, and backups of those that had other content (see `ccd.artifacts.existing.keep_old`).
    """
    inside = [] if os.path.isabs(images) or url_of(images) else [f"/{images.strip('/')}/"]  # noqa: PTH117
    texts = {
        **texts,
        ".gitignore": _with_lines(folder / ".gitignore", [*_IGNORED, *inside]),
        ".dvcignore": _with_lines(folder / ".dvcignore", [*_NOT_WALKED, *inside]),
    }
    is_new_folder = not folder.exists()
    backups = []
    old_contents: dict[Path, bytes | None] = {}
    try:
        for name, text in texts.items():
            path = folder / name
            if path.exists() and (name.startswith(_HAND_WORK) or _has_text(path, text)):
                continue
            backup = keep_old(path) if name in _REPLACED else None
            backups += [] if backup is None else [backup]
            old = path.read_bytes() if path.is_file() else None
            write_text(path, text)
            old_contents[path] = old
    except BaseException:
        _restore(folder, old_contents)
        if is_new_folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return [folder / name for name in texts], backups


def _has_text(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode("utf-8")


def _restore(folder: Path, old_contents: Mapping[Path, bytes | None]) -> None:
    """Give files their old contents, and delete those that had none."""
    for path, content in old_contents.items():
        if content is not None:
            path.write_bytes(content)
            continue
        path.unlink(missing_ok=True)
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()


def prepare_version_control(folder: Path) -> list[str]:
    """Make ``folder`` a git and DVC repository if it is none. Return the commands that failed, for the user to run."""
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
        failed.append(" ".join(part for part in command if part != "--quiet"))
    return failed


def write_plot_template(folder: Path) -> Path | None:
    """Write the template for the bar plots of ``dvc.yaml`` into a DVC project that has none.

    Returns:
        The file if it was written, else None.
    """
    path = folder / ".dvc/plots/sorted_bars.json"
    if not (folder / ".dvc").is_dir() or path.exists():
        return None
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(_TEMPLATE.read_bytes())
    return path


def commit_command(folder: Path) -> str | None:
    """Return the shell command for a first commit in ``folder``, which DVC's experiments need; None without git."""
    if shutil.which("git") is None or _output(["git", "rev-parse", "--show-toplevel"], folder) is None:
        return None
    return "git add . && git commit -m 'a project of ccd init'"


def _output(command: list[str], folder: Path) -> str | None:
    """Return the output of a command, None if it fails."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    completed = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
    )
    return completed.stdout.strip() if completed.returncode == 0 else None


def _with_lines(path: Path, lines: list[str]) -> str:
    """Return the text of an ignore file with the missing ones of ``lines`` added."""
    old = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return "\n".join([*old, *(line for line in lines if line not in old)]) + "\n"
