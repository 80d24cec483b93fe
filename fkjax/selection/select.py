"""The function `fkjax.select`."""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from fkjax.acquisition import STRATEGIES, Factory
from fkjax.base import Strategy, UserError, check_name
from fkjax.data.columns import Tell
from fkjax.selection.choose import Selection, choose
from fkjax.selection.from_network import problem_of_network
from fkjax.selection.from_outputs import SUFFICE, problem_of_outputs


def select(
    pool: Any,
    validation: Any,
    *,
    budget: int,
    strategy: str | Strategy | Factory = "fisher_nearest",
    network: Any = None,
    variables: Any = None,
    taps: Sequence[str] | None = None,
    labeled: Iterable[Any] = (),
    classes: Sequence[Any] | None = None,
    keep_copies: bool = False,
    trained_on_validation: bool = False,
    seed: int = 0,
    tell: Tell | None = None,
) -> Selection:
    """Chooses the examples of a pool to label next.

    From the features and logits of any network:

    >>> import numpy as np
    >>> features = np.eye(4, dtype=np.float32)
    >>> logits = np.array([[2, 0], [2, 0], [0, 2], [0, 1]], np.float32)
    >>> pool = {"features": features + 1, "logits": logits}
    >>> validation = {"features": features[2:], "logits": logits[2:], "labels": [1, 0]}
    >>> (pick,) = select(pool, validation, budget=1).picks
    >>> pick.id, pick.pseudo_label, pick.answers.label, pick.answers.predicted
    (3, '0', '0', '1')

    With a Flax network, which is run on the examples:

    >>> from flax import nnx
    >>> network = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu,
    ...                          nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    >>> pool = {"images": features + 1}
    >>> validation = {"images": features[2:], "labels": [1, 0]}
    >>> len(select(pool, validation, network=network, budget=2).picks)
    2

    Args:
        pool: unlabeled pool, as a mapping of arrays (of NumPy, PyTorch, JAX, h5py or
            Zarr), a table as in `fkjax.data.frames.as_mapping`, or files that contain
            them as in `fkjax.data.column_files.read_columns`: features [N, d], the
            input of the network's last layer, and logits [N, C], its output; or, if
            `network` is given, images [N, ...] as it takes them, also tokens, or a dict
            of several arrays, such as tokens and a mask. Optionally ids [N], which are
            the positions by default.
        validation: the same for the validation set, with labels [M].
        budget: number of examples to choose, B.
        strategy: name in `fkjax.acquisition.STRATEGIES` (without a network, in
            `fkjax.selection.from_outputs.SUFFICE`), or a factory or strategy of your
            own.
        network: Flax NNX or Linen module, or `fkjax.base.Model`.
        variables: variables of the network, if it does not contain them.
        taps: names of the network's layers whose activations form the descriptors;
            found automatically if None.
        labeled: ids of the pool's examples that are already labeled.
        classes: names of the classes, in the order of the logits; then, names of
            classes of the validation set for which there are no logits. Labels of such
            classes may also be recognized without names (`fkjax.selection.lacking`),
            with a warning.
        keep_copies: whether all exact copies in the pool can be chosen. By default, one
            of each is, and no copy of a labeled or a validation example; the others are
            only chosen after all different examples.
        trained_on_validation: whether the network was trained on the validation set,
            too. Strategies by its mistakes there are then refused.
        seed: seed of all random choices.
        tell: function called as `tell(rows, N)` when rows of a large pool have been
            read.

    Returns:
        The picks, each with its score, its pseudo-label, the validation mistake that it
        was matched to, and the reason in a sentence.

    Raises:
        UserError: if something is missing or does not fit.
    """
    if isinstance(strategy, str):
        check_name(strategy, STRATEGIES, "strategy")
    known: dict[str, Any] = {"labeled": labeled, "classes": classes, "tell": tell}
    known["keep_copies"] = keep_copies
    if network is not None:
        problem = problem_of_network(
            pool, validation, network, variables, taps=taps, **known
        )
    else:
        require_sufficient(strategy)
        problem = problem_of_outputs(pool, validation, **known)
    if problem.num_lacking:
        warnings.warn(problem.notes[0], stacklevel=2)
    problem = dataclasses.replace(problem, trained_on_validation=trained_on_validation)
    return choose(problem, budget=budget, strategy=strategy, seed=seed)


def require_sufficient(strategy: str | Strategy | Factory) -> None:
    """Raises an error if a strategy needs more than features and logits."""
    if isinstance(strategy, str) and strategy not in SUFFICE:
        raise UserError(
            f"{strategy} needs the network, not only its features and logits: use one "
            f"of {', '.join(SUFFICE)}, or give the network"
        )
