"""The command `fkjax`, its four commands, and their exit status."""

import subprocess
import sys

import pytest

import fkjax
import fkjax.__main__
from fkjax.base import UserError
from fkjax.commands.exit_status import exit_status


def test_help_and_version_name_the_commands(capsys):
    assert fkjax.__main__.main([]) == fkjax.__main__.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("run", "select", "label", "report"):
        assert f"\n  {name} " in text
    assert fkjax.__main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fkjax {fkjax.__version__}\n"


def test_an_unknown_command_is_refused(capsys):
    assert fkjax.__main__.main(["lable"]) == 2
    error = capsys.readouterr().err
    assert error == "fkjax: the commands are run, select, label, report, got 'lable'\n"


@pytest.mark.parametrize("name", ["run", "select", "label", "report"])
def test_each_command_has_its_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        fkjax.__main__.main([name, "--help"])
    assert f"usage: fkjax {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "--strategies", "fisher_nearst"], "fisher_nearest"),
        (["select", "--budget", "3"], "--pool"),
        (["label"], "--images is missing"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_an_error_of_the_user_is_one_message_and_status_2(argv, message, capsys):
    assert fkjax.__main__.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("fkjax: ") and message in error
    assert error.count("\n") == 1 and "Traceback" not in error


def test_the_exit_status():
    def raises(error):
        def command():
            raise error

        return exit_status(command)

    assert exit_status(lambda: "ignored") == 0
    assert raises(UserError("no such thing")) == 2
    assert raises(KeyboardInterrupt) == 130
    with pytest.raises(ValueError, match="of the program"):
        raises(ValueError("of the program"))


@pytest.mark.integration
def test_doors_run_the_commands():
    for door in ("fkjax", "fkjax.run", "fkjax.select", "fkjax.label", "fkjax.report"):
        command = [sys.executable, "-m", door, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        name = door.partition(".")[2] or "COMMAND"
        assert done.stdout.startswith(f"usage: fkjax {name}")


@pytest.mark.parametrize("oracle", [["--oracle", "file"], ["--oracle=file"]])
def test_run_with_a_person_as_the_oracle_is_label(oracle, monkeypatch):
    asked = []
    monkeypatch.setattr("fkjax.commands.label.main", lambda argv: asked.append(argv))
    fkjax.commands.run.main(["--images", "d", *oracle, "--rounds", "2"])
    assert asked == [["--images", "d", "--rounds", "2"]]
