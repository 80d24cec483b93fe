"""The README's Python runs as it is printed; its quick start is what CI runs."""

import re
from pathlib import Path

from fkjax import models

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_python_block_runs(monkeypatch):
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))  # one block adds to it
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["R"].shape == (100, 100)
    assert names["sketches"].shape == (100, 512)
    thin = models.MODELS["thin"]
    made = thin.make(
        (32, 32, 3), 10, mean=(0.5,), std=(0.5,), conv_dropout=0.0, dense_dropout=0.5
    )
    assert set(thin.taps) <= set(made.taps)


def test_the_quick_start_is_two_commands():
    first, second = re.findall(r"```bash\n(.*?)```", README, re.S)[:2]
    assert "-m fkjax.run" in first and "-m pytest" in second
    assert first.count("\n") == second.count("\n") == 1
