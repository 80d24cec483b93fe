"""Automatic choice of a sketch for each layer: the least cost for a given error.

The variance of a sketch of rank K is at most c |x|^2 |y|^2 / K. A sketch with twice the
c needs twice the K for the same error, so the sketches are compared by c times cost.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from fkjax.base import LogProbs, path_of
from fkjax.fisher import capture
from fkjax.sketch.base import Sketch, matrix_shape, reshaped
from fkjax.sketch.structured import khatri_rao, tensor_sketch
from fkjax.sketch.unstructured import balanced_fold, count_sketch

# Sketches with their c; of equal ones the first is chosen. `kronecker` has no such
# bound: with equal ranks, its variance decreases as 1 / sqrt K.
_CANDIDATES = ((count_sketch, 2), (tensor_sketch, 6), (khatri_rao, 8))


class SketchPlan(NamedTuple):
    """A sketch for each leaf of theta, with the reasons; can be printed.

    Attributes:
        sketches: sketch of each leaf by path, for `fkjax.sketch.projection.project`.
        reasons: reason for the choice of each sketch, by path.
    """

    sketches: dict[str, Sketch]
    reasons: dict[str, str]

    def __str__(self) -> str:
        """Returns one line for each leaf."""
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
    """Chooses a sketch for each leaf, by the T, m and n of its layer and by K.

    A leaf of at most K values is kept exactly. The kernel of a dense layer or a
    convolution gets the sketch with the least cost times c among count sketch (c = 2),
    tensor sketch (6) and Khatri-Rao (8). Any other leaf gets a count sketch. The choice
    depends only on shapes, not on the device.

    >>> import jax.numpy as jnp
    >>> def log_probs_fn(theta, x):
    ...     return jax.nn.log_softmax(x @ theta["kernel"] + theta["bias"])
    >>> theta = {"kernel": jnp.zeros((4096, 1000)), "bias": jnp.zeros(1000)}
    >>> print(auto(log_probs_fn, theta, jnp.ones(4096), rank=256))
    bias    count_sketch   plain: used by add, P=1000
    kernel  tensor_sketch  dense T=1 m=4096 n=1000: 1/704 of count_sketch's cost

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: parameters, any pytree of arrays.
        x: one example.
        rank: number of values of an embedding, K.
        sketches: sketches to use for some of the leaves, by path.

    Returns:
        The plan; `project(plan.sketches)` returns its projection.

    Raises:
        ValueError: if `sketches` has a path that is not a leaf of theta, or a sketch of
            another rank.
    """
    plan = capture.plan(log_probs_fn, theta, x)
    wanted = dict(sketches or {})
    if unknown := sorted(set(wanted) - set(plan.paths)):
        raise ValueError(
            f"theta has no leaf {unknown}; expected paths of {sorted(plan.paths)}"
        )
    if ranks := {path: s.rank for path, s in wanted.items() if s.rank != rank}:
        raise ValueError(f"all sketches must be of rank {rank}, got {ranks}")
    chosen, reasons = {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
        path = path_of(path)
        uses = plan.uses.get(path, ())
        matrix = capture.matrix_of(uses)
        if path in wanted:
            chosen[path], reasons[path] = wanted[path], "given"
        elif leaf.size <= rank:
            chosen[path] = balanced_fold(rank=rank)
            reasons[path] = f"P={leaf.size}: kept exactly"
        elif matrix:
            chosen[path], reasons[path] = _cheapest(uses, *matrix, rank)
        else:
            chosen[path] = count_sketch(rank=rank)
            why = plan.rest.get(path, "used transposed or in several shapes")
            reasons[path] = f"plain: {why}, P={leaf.size}"
        if matrix and matrix != matrix_shape(leaf.shape):
            chosen[path] = reshaped(chosen[path], *matrix)
    return SketchPlan(chosen, reasons)


def _cheapest(
    uses: tuple[capture.Use, ...], m: int, n: int, rank: int
) -> tuple[Sketch, str]:
    t = sum(use.positions for use in uses)
    candidates = [(factory(rank=rank), c) for factory, c in _CANDIDATES]
    best, _ = min(candidates, key=lambda item: item[0].cost(t, m, n) * item[1])
    reason = f"{uses[0].kind} T={t} m={m} n={n}"
    default = candidates[0][0]
    if best is not default:
        ratio = default.cost(t, m, n) / best.cost(t, m, n)
        reason += f": 1/{ratio:.0f} of {default.name}'s cost"
    return best, reason
