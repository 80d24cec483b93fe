"""Sketches the Fisher vectors of a function of your own, and compares examples by them.

The function is plain JAX: `log_probs(theta, x)`, the log-probabilities of one example,
for any pytree theta. Its Fisher vector u(x, s) = grad_theta log p(s | x, theta) has as
many numbers as theta, here 9,907. `fkjax.fisher_sketch` computes K = 512 numbers whose
inner products estimate those of the Fisher vectors, and never stores the vectors.

    python examples/fisher_sketch.py
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fkjax


def initial(key: jax.Array, *sizes: int) -> dict[str, dict[str, jax.Array]]:
    """Draws the parameters of dense layers."""
    theta = {}
    for i, (m, n) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (m, n)) / np.sqrt(m)
        theta[f"layer{i}"] = {"kernel": kernel, "bias": jnp.zeros(n)}
    return theta


def log_probs(theta: Any, x: jax.Array) -> jax.Array:
    """Returns log p(y | x, theta) of one example. Shape [C]."""
    *hidden, last = theta.values()
    for layer in hidden:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return jax.nn.log_softmax(x @ last["kernel"] + last["bias"])


def main() -> None:
    """Prints the plan, the error of the sketch, and the examples like one of them."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    xs = rng.normal(size=(3, 64))[labels] + rng.normal(size=(60, 64))
    xs, labels = jnp.asarray(xs, jnp.float32), jnp.asarray(labels)
    theta = initial(jax.random.key(0), 64, 128, 12, 3)

    init, apply, plan = fkjax.fisher_sketch(log_probs, theta, xs[0], rank=512)
    print(plan)  # one line for each array of theta: its sketch, and why
    state = jax.jit(init)(jax.random.key(1))
    sketches = jax.jit(apply)(state, theta, xs, labels)  # [60, 512]
    estimated = np.asarray(sketches @ sketches.T)

    # The definition, possible here because theta is small: [60, 9907] numbers.
    vectors = jax.jit(fkjax.fisher_vectors, static_argnums=0)
    leaves = jax.tree.leaves(vectors(log_probs, theta, xs, labels))
    rows = np.concatenate([np.reshape(leaf, (60, -1)) for leaf in leaves], axis=1)
    exact = rows @ rows.T
    error = np.linalg.norm(estimated - exact) / np.linalg.norm(exact)
    print(f"{rows.shape[1]:,} numbers became {sketches.shape[1]}: error {error:.3f}")

    nearest = np.argsort(-estimated[0])[1:6]
    print("like example 0, of class 0, are examples", nearest, "of", labels[nearest])


if __name__ == "__main__":
    main()
