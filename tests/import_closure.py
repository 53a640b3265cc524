"""Which of the project's own files a module imports, directly or not; and `dvc.yaml` kept in step with it.

python -m tests.import_closure    # rewrites the code deps of every stage in dvc.yaml
"""

from __future__ import annotations

import ast
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ccd", "stages")
DATA = ("data/", "corrections/")  # what stages make, and what people write
# What a stage says, and where it runs, cannot change what it writes; nor can what only these import.
NO_EFFECT = {"ccd/console.py", "ccd/errors.py", "ccd/launch.py", "ccd/machine.py", "ccd/params/runtime.py"}


def closure(script: Path) -> set[str]:
    """Files (relative, POSIX) that ``script`` reaches by imports, itself included; packages without code left out."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.relative_to(ROOT).as_posix() not in NO_EFFECT:
            waiting += imported_files(path)
    templates = {path.parent / "templates" for path in found if (path.parent / "templates").is_dir()}
    names = {path.relative_to(ROOT).as_posix() for path in found if _has_code(path)}
    return (names - NO_EFFECT) | {path.relative_to(ROOT).as_posix() for path in templates}


def imported_files(path: Path) -> list[Path]:
    """The project's files that one file imports, anywhere in it."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = []
    for module in modules:
        parts = module.split(".")
        if parts[0] in PACKAGES:
            prefixes = (ROOT.joinpath(*parts[: end + 1]) for end in range(len(parts)))
            candidates = [
                option for prefix in prefixes for option in (prefix.with_suffix(".py"), prefix / "__init__.py")
            ]
            files += [candidate for candidate in candidates if candidate.is_file()]
    return files


def _has_code(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    version = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"]
    return any(not isinstance(node, ast.Expr) and node not in version for node in body) or path.name != "__init__.py"


def code_deps(stage: str) -> list[str]:
    """What `deps` of a stage must name besides data: its script first, then the library."""
    script = f"stages/{stage}.py"
    return [script, *sorted(closure(ROOT / script) - {script})]


def main() -> None:
    """Rewrite the code deps in dvc.yaml; data deps stay as they are, first."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 200, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    path = ROOT / "dvc.yaml"
    content = yaml.load(path.read_text(encoding="utf-8"))
    for stage, entry in content["stages"].items():
        data = [dep for dep in entry.get("deps", []) if str(dep).startswith(DATA)]
        entry["deps"] = data + code_deps(stage)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


if __name__ == "__main__":
    main()
