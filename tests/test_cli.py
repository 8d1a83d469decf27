"""The frame that all verbs share: help, exit statuses, and how errors reach the user."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import v2ir
from v2ir import cli
from v2ir.cli import console
from v2ir.errors import InputError

VERBS = sorted(command.name or "" for command in cli.app.registered_commands)
# These only look; every other verb writes.
READ_ONLY = {"check", "models"}


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the installed command's own entry point and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["v2ir", *arguments])
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_every_verb_file_is_a_command() -> None:
    folder = Path(cli.__file__).parent
    assert sorted(p.stem for p in folder.glob("[!_]*.py") if p.stem != "console") == VERBS


def test_help_lists_every_verb() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert all(verb in result.output for verb in VERBS)


def test_version() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, f"v2ir {v2ir.__version__}")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_an_example(verb: str) -> None:
    result = CliRunner().invoke(cli.app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"v2ir {verb}" in result.output.split("Example", 1)[1]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in READ_ONLY])
def test_verbs_that_write_can_be_tried_dry(verb: str) -> None:
    command = typer.main.get_command(cli.app).commands[verb]  # type: ignore[attr-defined]
    assert "--dry-run" in {name for option in command.params for name in option.opts}


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_does(verb: str) -> None:
    command = typer.main.get_command(cli.app).commands[verb]  # type: ignore[attr-defined]
    silent = [option.name for option in command.params if not getattr(option, "help", None)]
    assert silent == []


@pytest.mark.parametrize("arguments", [["no-such-verb"], ["translate", "--no-such-option"]])
def test_wrong_use_exits_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.app, arguments).exit_code == 2


def test_errors_on_purpose_exit_2_and_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status = run_main(monkeypatch, "translate", str(tmp_path / "absent"), str(tmp_path / "out"))
    printed = capsys.readouterr()
    assert status == 2
    assert "absent" in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert not (tmp_path / "out").exists()


def test_an_error_has_three_parts_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise InputError("the scale is wrong", got="7", do="give a number below 5")

    monkeypatch.setattr(cli, "app", fail)
    assert run_main(monkeypatch) == 2
    assert capsys.readouterr().err == (
        "error: the scale is wrong; got: 7; to do: give a number below 5\n"
    )


def test_an_interrupt_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stop)
    assert run_main(monkeypatch) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_failed_inputs_are_listed_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as leaving:
        console.list_failures([("a.jpg", "cut off"), ("[b].png", "not an image")])
    assert leaving.value.exit_code == 1
    printed = capsys.readouterr().err
    assert "2 inputs failed" in printed
    assert "a.jpg: cut off" in printed
    assert "[b].png: not an image" in printed


def test_no_failures_leave_in_peace(capsys: pytest.CaptureFixture[str]) -> None:
    console.list_failures([])
    assert capsys.readouterr().err == ""


def test_the_progress_bar_takes_what_a_long_job_tells() -> None:
    with console.progress_bar("counting") as progress:
        for done in range(3):
            progress(done + 1, 3)
