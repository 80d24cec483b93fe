"""Which sketch for which layer: the cheapest for the error it makes.

A sketch of K numbers errs by a variance of up to c |x|^2 |y|^2 / K. Twice the c would
need twice the K for the same error, so what is compared is c times the cost.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from fkjax.base import LogProbs, path_of
from fkjax.fisher import capture
from fkjax.sketch.base import Sketch
from fkjax.sketch.structured import khatri_rao, tensor_sketch
from fkjax.sketch.unstructured import balanced_fold, count_sketch

# c, in the order in which equals are preferred. `kronecker` has no such bound: its
# variance falls as 1 / sqrt K, if its ranks are equal.
_CANDIDATES = ((count_sketch, 2), (tensor_sketch, 6), (khatri_rao, 8))


class SketchPlan(NamedTuple):
    """A sketch for every leaf of theta; printing it shows why.

    Attributes:
        sketches: by path, as `fkjax.sketch.projection.project` takes them.
        reasons: by path, what each was chosen for.
    """

    sketches: dict[str, Sketch]
    reasons: dict[str, str]

    def __str__(self) -> str:
        """One line a leaf."""
        rows = [
            (path, sketch.name, self.reasons[path])
            for path, sketch in self.sketches.items()
        ]
        widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:2]]
        return "\n".join(
            f"{path:{widths[0]}}  {name:{widths[1]}}  {reason}"
            for path, name, reason in rows
        )


def auto(
    log_probs_fn: LogProbs,
    theta: Any,
    x: Any,
    *,
    rank: int,
    sketches: Mapping[str, Sketch] | None = None,
) -> SketchPlan:
    """Chooses a sketch for every leaf from its layer's T, m, n and from K.

    A leaf of at most K values is kept exactly. A dense layer or a convolution gets the
    least of cost times c among count sketch (c = 2), tensor sketch (6) and Khatri-Rao
    (8); all else, count sketch. It depends on shapes alone, not on the device.

    >>> import jax.numpy as jnp
    >>> def log_probs_fn(theta, x):
    ...     return jax.nn.log_softmax(x @ theta["kernel"] + theta["bias"])
    >>> theta = {"kernel": jnp.zeros((4096, 1000)), "bias": jnp.zeros(1000)}
    >>> print(auto(log_probs_fn, theta, jnp.ones(4096), rank=256))
    bias    count_sketch   plain: used by add, P=1000
    kernel  tensor_sketch  dense T=1 m=4096 n=1000: 1/704 of count_sketch's cost

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: any pytree of arrays.
        x: one example.
        rank: K.
        sketches: by path, what to take instead for some leaves.

    Returns:
        The plan; `project(plan.sketches)` is its projection.

    Raises:
        ValueError: if theta has no leaf of such a path, or a sketch another rank.
    """
    plan = capture.plan(log_probs_fn, theta, x)
    wanted = dict(sketches or {})
    if unknown := sorted(set(wanted) - set(plan.paths)):
        raise ValueError(
            f"there is no leaf {unknown}; the paths are {sorted(plan.paths)}"
        )
    if ranks := {path: s.rank for path, s in wanted.items() if s.rank != rank}:
        raise ValueError(f"all sketches must be of rank {rank}, got {ranks}")
    chosen, reasons = {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
        path = path_of(path)
        if path in wanted:
            chosen[path], reasons[path] = wanted[path], "as asked"
        elif leaf.size <= rank:
            chosen[path] = balanced_fold(rank=rank)
            reasons[path] = f"P={leaf.size}: kept exactly"
        elif path in plan.uses and capture.is_plain(plan.uses[path]):
            chosen[path], reasons[path] = _cheapest(plan.uses[path], rank)
        else:
            chosen[path] = count_sketch(rank=rank)
            why = plan.rest.get(path, "used transposed")
            reasons[path] = f"plain: {why}, P={leaf.size}"
    return SketchPlan(chosen, reasons)


def _cheapest(uses: tuple[capture.Use, ...], rank: int) -> tuple[Sketch, str]:
    t, m, n = sum(u.positions for u in uses), uses[0].num_inputs, uses[0].num_outputs
    candidates = [(factory(rank=rank), c) for factory, c in _CANDIDATES]
    best, _ = min(candidates, key=lambda item: item[0].cost(t, m, n) * item[1])
    reason = f"{uses[0].kind} T={t} m={m} n={n}"
    default = candidates[0][0]
    if best is not default:
        ratio = default.cost(t, m, n) / best.cost(t, m, n)
        reason += f": 1/{ratio:.0f} of {default.name}'s cost"
    return best, reason
