"""Factored gradients, multiplied out, against plain automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import path_of
from fkjax.fisher import capture, vectors

C = 3


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def randomized(theta, seed=0):
    """The same tree with every leaf drawn anew, in float64: no zero, no one."""
    leaves, treedef = jax.tree.flatten(theta)
    drawn = [normal(seed + i, *leaf.shape) * 0.3 for i, leaf in enumerate(leaves)]
    return treedef.unflatten(drawn)


def classify(y):
    """Three classes' log-probabilities of anything, unevenly curved."""
    y = jnp.tanh(y).reshape(-1)
    weights = jnp.sin(jnp.arange(C * y.size)).reshape(C, y.size)
    return jax.nn.log_softmax(weights @ y)


def close(actual, desired, tolerance=1e-12):
    def check(path, a, d):
        name = path_of(path)
        assert a.shape == d.shape and a.dtype == d.dtype, name
        scale = float(abs(d).max())
        assert scale > 0, f"{name} has no gradient to compare"
        np.testing.assert_allclose(a, d, rtol=0, atol=tolerance * scale, err_msg=name)

    jax.tree_util.tree_map_with_path(check, actual, desired)


def check(log_probs_fn, theta, xs, covered, *, tolerance=1e-12):
    """One by one, mapped, and for all classes; `covered` are the paths in factors."""
    plan = capture.plan(log_probs_fn, theta, jax.tree.map(lambda x: x[0], xs))
    assert set(plan.uses) == set(covered)
    assert set(plan.uses) | set(plan.rest) == set(plan.paths)
    num = len(jax.tree.leaves(xs)[0])
    labels = jnp.arange(num) % C

    @jax.jit
    def everything(theta, xs):
        def one(x, label):
            captured = capture.capture(log_probs_fn, theta, x, label)
            for path, uses in plan.uses.items():
                for use, (a, d) in zip(uses, captured.factors[path], strict=True):
                    assert a.shape == (use.positions, use.num_inputs)
                    assert d.shape == (use.positions, use.num_outputs)
            return capture.gradient(plan, captured)

        first = jax.tree.map(lambda x: x[0], xs)
        captured = capture.capture_all_classes(log_probs_fn, theta, first)
        return (
            vectors.fisher_vectors(log_probs_fn, theta, xs, labels),
            jax.vmap(one)(xs, labels),
            one(first, 0),
            capture.gradient(plan, captured),
            jax.jacrev(lambda theta: log_probs_fn(theta, first))(theta),
        )

    expected, mapped, alone, all_classes, jacobian = everything(theta, xs)
    close(mapped, expected, tolerance)
    close(alone, jax.tree.map(lambda g: g[0], expected), tolerance)
    close(all_classes, jacobian, tolerance)
    return plan
