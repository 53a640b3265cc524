"""`dvc.yaml` kept in step with what the stages import.

python -m tests.import_closure    # rewrites the code deps of every stage in dvc.yaml
"""

from __future__ import annotations

from ruamel.yaml import YAML

from ccd.runtime.store import ROOT, closure

DATA = ("data/", "corrections/")  # what stages make, and what people write


def code_deps(stage: str) -> list[str]:
    """What `deps` of a stage must name besides data: its script first, then the library."""
    script = f"stages/{stage}.py"
    return [script, *sorted(closure([ROOT / script]) - {script})]


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
