import jax.numpy as jnp
import numpy as np

from fkjax.experiment import pool as pools


def test_a_new_pool_has_no_label():
    pool = pools.create(4)
    assert pool.round == 0
    assert pool.is_unlabeled.all()
    indices, count = pools.labeled(pool, capacity=3)
    assert count == 0
    assert indices.shape == (3,)


def test_queried_at_replays_the_history():
    pool = pools.create(6)
    pool = pools.add(pool, jnp.array([4, 1]), jnp.array([7, 8]))
    pool = pools.add(pool, jnp.array([0, 5]), jnp.array([9, 6]))
    np.testing.assert_array_equal(pool.queried_at, [1, 0, -1, -1, 0, 1])
    np.testing.assert_array_equal(pool.label, [9, 8, -1, -1, 7, 6])
    assert pool.round == 2
    indices, count = pools.labeled(pool, capacity=5)
    assert count == 4
    np.testing.assert_array_equal(indices[:4], [0, 1, 4, 5])
