"""Fisher metrics: the matrix F of the Fisher kernel k(x, x') = u^T F^-1 u'.

A metric is fitted to the Fisher vectors of some examples, with F = E[u u^T]. It then
whitens other vectors, so that inner products of whitened vectors are the kernel.
`identity_metric` and `diagonal` take pytrees of vectors. `kfac` and
`eigenvalue_corrected` take the factors of layers, with a 1 for the bias among the
inputs (see `fkjax.fisher.factors.with_bias`). `low_rank` takes embeddings, such as
sketches.

Damping adds a multiple of the identity. Without it, F is singular if there are fewer
examples than parameters. In float32, damping below about 1e-6 of the largest eigenvalue
of F is lost to rounding (1e-12 for `low_rank`, which does not form F). Vectors and
factors in bfloat16 or float16 are summed in float32, and the results are float32.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import widened
from fkjax.fisher.factors import Factors, matmul, weight_gradient


class Metric(NamedTuple):
    """A Fisher metric F as pure functions.

    Attributes:
        fit: function `fit(vectors) -> state` of the Fisher vectors of N examples.
        whiten: function `whiten(state, vectors) -> whitened` of the vectors of any
            number of examples, with <whiten(u), whiten(u')> = u^T F^-1 u'.
    """

    fit: Callable[[Any], Any]
    whiten: Callable[[Any, Any], Any]


def identity_metric() -> Metric:
    """Returns the metric F = I of the practical Fisher kernel.

    Source: Gudovskiy et al. 2020, Sec. 4.1.

    >>> metric = identity_metric()
    >>> metric.whiten(metric.fit(jnp.ones((2, 3))), jnp.ones((1, 3)))
    Array([[1., 1., 1.]], dtype=float32)
    """
    return Metric(lambda vectors: (), lambda state, vectors: vectors)


def diagonal(*, damping: float) -> Metric:
    """Returns the metric F = diag(E[u^2]) + damping I, for any pytree of vectors.

    >>> metric = diagonal(damping=1.0)
    >>> state = metric.fit(jnp.array([[0.0, 1.0], [0.0, 5.0**0.5]]))
    >>> metric.whiten(state, jnp.array([[1.0, 4.0]])).tolist()
    [[1.0, 2.0]]

    Args:
        damping: number that is added to each element, positive.

    Returns:
        A metric for pytrees whose leaves have shape [N, ...].

    Raises:
        ValueError: if the damping is not positive.
    """
    _check_damping(damping)

    def fit(vectors: Any) -> Any:
        return jax.tree.map(
            lambda u: jnp.square(widened(u)).mean(axis=0) + damping, vectors
        )

    def whiten(state: Any, vectors: Any) -> Any:
        return jax.tree.map(lambda f, u: u / jnp.sqrt(f)[None], state, vectors)

    return Metric(fit, whiten)


LayerFactors = Mapping[str, Factors]
"""The factors of the Fisher vectors of each layer, by the name of the layer."""


class KroneckerRoots(NamedTuple):
    """The inverse square roots of the two damped factors of F of one layer.

    Attributes:
        a: inverse square root of the factor of the inputs. Shape [m, m].
        d: inverse square root of the factor of the errors. Shape [n, n].
    """

    a: jax.Array
    d: jax.Array


def kfac(*, damping: float) -> Metric:
    """Returns the metric of K-FAC, a Kronecker product for each layer.

        F = (A + pi sqrt(damping) I) x (D + sqrt(damping) / pi I),
        A = E[sum_t a_t a_t^T],  D = E[mean_t d_t d_t^T],
        pi^2 = (tr A / m) / (tr D / n)

    Whitened vectors are factors, too, and can be used with the exact product kernel.

    Source: Martens and Grosse 2015, Sec. 6.3; Grosse and Martens 2016 (convolutions).

    >>> metric = kfac(damping=1.0)
    >>> layers = {"dense": Factors(jnp.ones((4, 1)), jnp.ones((4, 1)))}
    >>> whitened = metric.whiten(metric.fit(layers), layers)["dense"]
    >>> (whitened.a * whitened.d)[0].round(3)  # 1 / sqrt((1 + 1) (1 + 1))
    Array([0.5], dtype=float32)

    Args:
        damping: damping of F, positive; it is distributed over both factors in
            proportion to their size.

    Returns:
        A metric for factors by layer, with `KroneckerRoots` states and whitened
        `Factors`.

    Raises:
        ValueError: if the damping is not positive.
    """
    _check_damping(damping)

    def fit(layers: LayerFactors) -> dict[str, KroneckerRoots]:
        return {name: one(*_moments(factors)) for name, factors in layers.items()}

    def one(a: jax.Array, d: jax.Array) -> KroneckerRoots:
        size_a, size_d = jnp.trace(a) / len(a), jnp.trace(d) / len(d)
        is_regular = (size_a > 0) & (size_d > 0)
        ratio = jnp.where(is_regular, size_a / jnp.where(is_regular, size_d, 1), 1)
        pi = jnp.sqrt(ratio)
        return KroneckerRoots(
            _inverse_root(a, damping**0.5 * pi), _inverse_root(d, damping**0.5 / pi)
        )

    def whiten(
        state: dict[str, KroneckerRoots], layers: LayerFactors
    ) -> dict[str, Factors]:
        return {
            name: Factors(matmul(a, state[name].a), matmul(d, state[name].d))
            for name, (a, d) in layers.items()
        }

    return Metric(fit, whiten)


class EigenvalueCorrected(NamedTuple):
    """The matrix F of one layer in the eigenbasis of its Kronecker factors.

    Attributes:
        a: eigenvectors of A, in columns. Shape [m, m].
        d: eigenvectors of D, in columns. Shape [n, n].
        scale: eigenvalues of F. Shape [m, n].
    """

    a: jax.Array
    d: jax.Array
    scale: jax.Array


def eigenvalue_corrected(*, damping: float, batch_size: int = 256) -> Metric:
    """Returns the metric of EK-FAC, which corrects the eigenvalues of K-FAC.

    It has the eigenvectors Q of K-FAC and the variances of u along them, by layer:

        F = (Q_A x Q_D) diag(E[((Q_A x Q_D)^T u)^2] + damping) (Q_A x Q_D)^T

    Whitened vectors are not factored: whiten as many examples at a time as fit in
    memory.

    Source: George et al. 2018, Sec. 3.

    >>> metric = eigenvalue_corrected(damping=3.0)
    >>> layers = {"dense": Factors(jnp.ones((4, 1)), jnp.ones((4, 1)))}
    >>> whitened = metric.whiten(metric.fit(layers), layers)["dense"]
    >>> abs(whitened[0]).round(3)  # 1 / sqrt(1 + 3), in an eigenbasis of either sign
    Array([0.5], dtype=float32)

    Args:
        damping: number that is added to each eigenvalue, positive.
        batch_size: number of examples whose vectors are held in memory during the fit.

    Returns:
        A metric for factors by layer, with `EigenvalueCorrected` states and whitened
        vectors of shape [N, m n].

    Raises:
        ValueError: if the damping is not positive.
    """
    _check_damping(damping)

    def fit(layers: LayerFactors) -> dict[str, EigenvalueCorrected]:
        return {name: one(factors) for name, factors in layers.items()}

    def one(factors: Factors) -> EigenvalueCorrected:
        q_a, q_d = (jnp.linalg.eigh(moment)[1] for moment in _moments(factors))
        a, d = matmul(factors.a, q_a), matmul(factors.d, q_d)
        if a.ndim == 2:  # the square of a product is a product of squares
            squares = matmul(jnp.square(a).T, jnp.square(d)) / len(a)
        else:
            squares = _mean_square_gradient(a, d, batch_size)
        return EigenvalueCorrected(q_a, q_d, squares + damping)

    def whiten(
        state: dict[str, EigenvalueCorrected], layers: LayerFactors
    ) -> dict[str, jax.Array]:
        def one(name: str) -> jax.Array:
            (a, d), (q_a, q_d, scale) = layers[name], state[name]
            u = jax.vmap(weight_gradient)(matmul(a, q_a), matmul(d, q_d))
            return (u / jnp.sqrt(scale)[None]).reshape(len(u), -1)

        return {name: one(name) for name in layers}

    return Metric(fit, whiten)


class LowRank(NamedTuple):
    """The inverse square root F^-1/2 = V diag(inside) V^T + outside (I - V V^T).

    Attributes:
        basis: orthonormal columns V. Shape [K, min(N, K)].
        inside: eigenvalues in the span of V. Shape [min(N, K)].
        outside: eigenvalue outside of it; 0 if V is a complete basis. Shape [].
    """

    basis: jax.Array
    inside: jax.Array
    outside: jax.Array


def low_rank(*, damping: float) -> Metric:
    """Returns the metric F = S^T S / N + damping I of embeddings S of N examples.

    If N < K, only the span of S is decomposed, and F is damping I outside of it: the
    Woodbury identity for the square root. Whitening twice applies F^-1.

    >>> metric = low_rank(damping=1.0)
    >>> state = metric.fit(jnp.array([[3.0**0.5, 0.0]]))
    >>> metric.whiten(state, jnp.array([[2.0, 2.0]])).round(3).tolist()
    [[1.0, 2.0]]

    Args:
        damping: number that is added to each eigenvalue, positive.

    Returns:
        A metric for embeddings [N, K], with a `LowRank` state and whitened embeddings
        [N, K].

    Raises:
        ValueError: if the damping is not positive.
    """
    _check_damping(damping)

    def fit(embeddings: jax.Array) -> LowRank:
        num, rank = embeddings.shape
        # The singular values of S have half the digits of its second moment's
        # eigenvalues to lose. Those of R, of S = Q R, are the same.
        matrix = widened(embeddings)
        if num > rank:
            matrix = jnp.linalg.qr(matrix, mode="r")
        _, singular, rows = jnp.linalg.svd(matrix, full_matrices=False)
        inside = jax.lax.rsqrt(jnp.square(singular) / num + damping)
        outside = jnp.float32(damping**-0.5 if num < rank else 0)
        return LowRank(rows.T, inside, outside)

    def whiten(state: LowRank, embeddings: jax.Array) -> jax.Array:
        within = matmul(embeddings, state.basis)
        rest = embeddings - matmul(within, state.basis.T)
        return matmul(within * state.inside[None], state.basis.T) + rest * state.outside

    return Metric(fit, whiten)


def _check_damping(damping: float) -> None:
    if not damping > 0:
        raise ValueError(
            f"damping must be positive, got {damping}; without it F has no inverse"
        )


def _moments(factors: Factors) -> tuple[jax.Array, jax.Array]:
    """Computes A = E[sum_t a_t a_t^T] and D = E[mean_t d_t d_t^T].

    Shapes [m, m] and [n, n].
    """
    num_examples = len(factors.a)
    a, d = (x.reshape(-1, x.shape[-1]) for x in factors)
    return matmul(a.T, a) / num_examples, matmul(d.T, d) / len(d)


def _inverse_root(moment: jax.Array, damping: jax.Array) -> jax.Array:
    """Computes the symmetric (moment + damping I)^-1/2. Shape [n, n]."""
    eigenvalues, q = jnp.linalg.eigh(moment)
    roots = jnp.sqrt(jnp.maximum(eigenvalues, 0) + damping)
    return matmul(q / roots[None], q.T)


@functools.partial(jax.jit, static_argnames="batch_size")
def _mean_square_gradient(a: jax.Array, d: jax.Array, batch_size: int) -> jax.Array:
    """Computes the mean over N of (sum_t a_t d_t^T)^2, squared by element.

    Args:
        a: inputs. Shape [N, T, m].
        d: errors. Shape [N, T, n].
        batch_size: number of examples whose gradients are held in memory.

    Returns:
        The mean. Shape [m, n].
    """
    remainder = len(a) % batch_size

    def add(total: jax.Array, batch: Factors) -> tuple[jax.Array, None]:
        u = jax.vmap(weight_gradient)(*batch)
        return total + jnp.square(u).sum(axis=0), None

    none = jnp.zeros((a.shape[-1], d.shape[-1]), widened(a[:0]).dtype)
    total, _ = add(none, Factors(a[:remainder], d[:remainder]))
    batches = Factors(
        *(x[remainder:].reshape(-1, batch_size, *x.shape[1:]) for x in (a, d))
    )
    total, _ = jax.lax.scan(add, total, batches)
    return total / len(a)
