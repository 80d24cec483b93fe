"""The function `fkjax.select`."""

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
    seed: int = 0,
    tell: Tell | None = None,
) -> Selection:
    """Chooses what to label next, by what a network makes of a pool.

    Either from what the network gave already:

    >>> import numpy as np
    >>> features = np.eye(4, dtype=np.float32)
    >>> logits = np.array([[2, 0], [2, 0], [0, 2], [0, 1]], np.float32)
    >>> pool = {"features": features, "logits": logits}
    >>> validation = {"features": features[2:], "logits": logits[2:], "labels": [1, 0]}
    >>> (pick,) = select(pool, validation, budget=1).picks
    >>> pick.id, pick.pseudo_label, pick.answers.label, pick.answers.predicted
    (3, '0', '0', '1')

    Or by a Flax network, which is run:

    >>> from flax import nnx
    >>> network = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu,
    ...                          nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    >>> pool = {"images": features}
    >>> validation = {"images": features[2:], "labels": [1, 0]}
    >>> len(select(pool, validation, network=network, budget=2).picks)
    2

    Args:
        pool: the unlabelled pool: a mapping of arrays (NumPy's, PyTorch's or JAX's), or
            files that hold them: features [N, d], the input of the network's last
            layer, and logits [N, C], its output; or, if the network is given, images
            [N, ...] as it takes them. And ids [N], if they are not to be positions.
        validation: the same of the validation set, and labels [M].
        budget: B, how many to choose.
        strategy: a name in `fkjax.acquisition.STRATEGIES`, without a network one of
            `fkjax.selection.from_outputs.SUFFICE`; or a factory or a strategy of your
            own.
        network: a Flax NNX or Linen module, or a `fkjax.base.Model`.
        variables: of the network, where it does not hold them.
        taps: names of the network's layers to describe examples by; None finds them.
        labeled: ids of the pool that have a label already.
        classes: names of the classes, in the order of the logits.
        seed: of every random choice.
        tell: `tell(rows, N)` is called whenever rows of a large pool were read.

    Returns:
        The picks, each with its score, its pseudo-label, the validation mistake that it
        answers, and a sentence on why.

    Raises:
        UserError: if something is missing or does not fit.
    """
    if isinstance(strategy, str):
        check_name(strategy, STRATEGIES, "strategy")
    known: dict[str, Any] = {"labeled": labeled, "classes": classes, "tell": tell}
    if network is not None:
        problem = problem_of_network(
            pool, validation, network, variables, taps=taps, **known
        )
    else:
        require_sufficient(strategy)
        problem = problem_of_outputs(pool, validation, **known)
    return choose(problem, budget=budget, strategy=strategy, seed=seed)


def require_sufficient(strategy: str | Strategy | Factory) -> None:
    """Refuses a strategy that features and logits alone do not allow."""
    if isinstance(strategy, str) and strategy not in SUFFICE:
        raise UserError(
            f"{strategy} needs the network itself, not only its features and logits: "
            f"take one of {', '.join(SUFFICE)}, or give the network"
        )
