import io

import rich.console

from fkjax.experiment.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_silent_without_a_terminal(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(total=2) as progress:
        progress.advance("pretraining")
        progress.update(strategy="a", seed=0, round=0, accuracy=0.5)
    assert capfd.readouterr() == ("", "")


def test_progress_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = rich.console.Console(
        file=Terminal(), width=100, force_terminal=True, legacy_windows=False
    )
    with Progress(total=4, completed=1, console=console) as progress:
        progress.advance("pretraining")
        progress.update(strategy="[b]a", seed=3, round=7, accuracy=0.873)
    text = console.file.getvalue()
    assert "[b]a, seed 3, round 7: 87.3 %" in text and "3/4" in text
