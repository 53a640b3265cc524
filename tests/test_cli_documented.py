"""Every command explains itself, docs/cli.md knows them all, and the exit statuses are those it lists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ccd.cli.main import main
from ccd.params import presets
from tests.toys.deployed import write_photos, write_student

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/cli.md"


def commands(group: click.Group, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {words: group}
    for name, command in group.commands.items():
        below = (*words, name)
        found |= commands(command, below) if isinstance(command, click.Group) else {below: command}
    return found


COMMANDS = commands(main)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_and_its_options_have_help(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*words, "--help"])
    assert done.exit_code == 0 and done.stdout.startswith("Usage: ")
    for option in COMMANDS[words].params:
        if isinstance(option, click.Option):
            assert option.help, option.name
    if words:
        summary = COMMANDS[words].short_help
        assert summary and summary.endswith(".") and len(summary) <= 60


@pytest.mark.parametrize(
    "words", [words for words, command in COMMANDS.items() if not isinstance(command, click.Group)], ids=" ".join
)
def test_the_document_lists_it_and_says_what_json_holds(words: tuple[str, ...]) -> None:
    row = re.search(rf"^\| `ccd {' '.join(words)}[ `].*$", DOCUMENT.read_text(), re.M)
    assert row is not None
    has_json = any("--json" in option.opts for option in COMMANDS[words].params)
    assert row[0].count("|") == 4 and row[0].endswith("| - |") != has_json


def test_the_overview_lists_whole_summaries_in_the_order_of_use() -> None:
    shown = CliRunner().invoke(main, ["--help"]).stdout
    listed = re.findall(r"^  (\w+) +(\S.*)$", shown.split("Commands:")[1].split("Exit")[0], re.M)
    assert listed[:2] == [("init", main.commands["init"].short_help), ("use", main.commands["use"].short_help)]
    assert [name for name, _ in listed] == list(main.commands)
    assert not any(summary.endswith("...") for _, summary in listed)


def test_exit_statuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    student = write_student(Path("student.pt"))
    photos = write_photos(Path("photos"), 1)
    Path("bad.jpg").touch()

    def status(*words: str) -> int:
        return CliRunner().invoke(main, list(words)).exit_code

    assert status("predict", str(student), str(photos[0]), "--workers", "0") == 0
    assert status("predict", str(student), str(photos[0]), "bad.jpg", "--workers", "0") == 3
    assert status("predict", str(student), "nowhere") == 2 and status("no-such-command") == 2 and status("predict") == 2

    def interrupted() -> dict[str, str]:
        raise KeyboardInterrupt

    def defective() -> dict[str, str]:
        raise ZeroDivisionError

    monkeypatch.setattr(presets, "presets", interrupted)
    assert status("use") == 130
    monkeypatch.setattr(presets, "presets", defective)
    assert status("use") == 1
    assert set(re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(), re.M)) == {"0", "1", "2", "3", "130"}


def test_completion_knows_the_commands() -> None:
    done = CliRunner().invoke(
        main, prog_name="ccd", env={"_CCD_COMPLETE": "bash_complete", "COMP_WORDS": "ccd in", "COMP_CWORD": "1"}
    )
    assert done.stdout.split() == ["plain,init", "plain,inspect"]
