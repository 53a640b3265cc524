"""What a user sees of a mistake: a message, and a traceback on demand alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ccd.cli.main import main
from ccd.errors import DEBUG_VARIABLE, CcdError, user_errors
from ccd.runtime.launch import stage


@stage
def failing(out: Path) -> None:
    """A stage whose mistake has a cause."""
    try:
        raise OSError("the cause")
    except OSError:
        raise CcdError(f"{out}: \x1b[31m no\udcff good\nsecond line") from None


@pytest.mark.parametrize(
    ("variable", "flags", "shown"),
    [(None, [], False), ("0", [], False), ("", [], False), ("1", [], True), (None, ["--debug"], True)],
)
def test_a_traceback_comes_on_demand(
    variable: str | None,
    flags: list[str],
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, variable or "")
    with pytest.raises(SystemExit) as stop:
        failing.main(["--out", "x", *flags], standalone_mode=False)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert ("Traceback" in said and "the cause" in said) == shown
    assert said.endswith("error: x: \\x1b[31m no\\udcff good\nsecond line\n"), "control characters are escaped"


def test_the_command_line_takes_debug_before_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DEBUG_VARIABLE, "")
    plain = CliRunner().invoke(main, ["artifacts"])
    loud = CliRunner().invoke(main, ["--debug", "artifacts"])
    assert (plain.exit_code, loud.exit_code) == (2, 2)
    assert "Traceback" not in plain.output and "Traceback" in loud.output
    assert "params.yaml does not exist here" in plain.output


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, user_errors():
        raise KeyboardInterrupt
    assert stop.value.code == 130 and capsys.readouterr().err.startswith("interrupted")


def test_a_bug_is_no_users_mistake() -> None:
    with pytest.raises(ZeroDivisionError), user_errors():
        1 / 0  # noqa: B018


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_text_that_the_locale_cannot_print_ends_nothing(locale: dict[str, str]) -> None:
    code = (
        "from ccd.errors import user_errors\nfrom ccd.runtime.console import StageLog\n"
        "with user_errors(): StageLog('bias').finding(chr(0x732B))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **locale}, capture_output=True, check=False)
    assert done.returncode == 0 and done.stdout.decode("utf-8") == "[bias] \u732b\n", done.stderr
