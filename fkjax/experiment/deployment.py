"""The rule of prior correction of a run, and the file of class shares."""

import math
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fkjax.base import UserError
from fkjax.experiment.config import Config
from fkjax.experiment.held_out import CorrectionRule
from fkjax.files.opening import exists
from fkjax.files.spreadsheet import Problems, as_it_was, read_rows


def correction_rule(config: Config, classes: Sequence[str]) -> CorrectionRule:
    """Returns the rule that `config.prior_correction` names.

    Args:
        config: settings of the run.
        classes: names of the classes, in order. Length C.

    Raises:
        UserError: if it is a file that cannot be read, or whose shares are not one
            positive number for each class that sum to 1.
    """
    kind = config.prior_correction
    if kind == "auto" or kind == "counts" or kind == "none":
        return CorrectionRule(kind)
    if not exists(Path(kind)):
        raise UserError(
            "--prior-correction must be auto, counts, none or a CSV file of class "
            f"shares, and there is no file {kind}"
        )
    return CorrectionRule("auto", jnp.asarray(read_shares(Path(kind), classes)))


def read_shares(path: Path, classes: Sequence[str]) -> np.ndarray:
    """Reads the class shares in deployment from a CSV file.

    The file has the columns class and share, and one line for each class.

    Args:
        path: path of the file.
        classes: names of the classes, in order. Length C.

    Returns:
        The shares, which sum to 1. Shape [C].

    Raises:
        UserError: if the file cannot be read, a class is missing, unknown or there
            twice, or the shares are not positive numbers that sum to 1.
    """
    problems = Problems(path)
    shares: dict[str, float] = {}
    for row in read_rows(path, ("class", "share"), problems):
        name, text = as_it_was(row.cells["class"]), row.cells["share"]
        if name not in classes:
            problems.add(f"there is no class {name!r}", row.line)
        elif name in shares:
            problems.add(f"class {name!r} is there twice", row.line)
        else:
            shares[name] = _number(text)
            if not (math.isfinite(shares[name]) and shares[name] > 0):
                problems.add(f"share {text!r} is not a positive number", row.line)
    missing = [repr(name) for name in classes if name not in shares]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        problems.add(f"class {', '.join(missing[:5])}{more} is missing")
    total = sum(shares.values())
    if not len(problems) and abs(total - 1) > 0.01:
        problems.add(f"the shares sum to {total:g}")
    problems.raise_any(
        "give each class once, with its share in deployment, a positive number such as "
        "0.25; the shares sum to 1"
    )
    return np.array([shares[name] / total for name in classes])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
