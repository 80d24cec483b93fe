import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkjax.base import UserError
from fkjax.data.datasets import Dataset
from fkjax.data.splits import balanced_subset, long_tail, split, step_imbalance

KEY = jax.random.key(0)


def toy(counts, test_size=4):
    """Returns a dataset of 1 x 1 pixel images with these counts of each class."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    labels = np.random.default_rng(0).permutation(labels)
    images = np.arange(len(labels)).astype(np.uint8).reshape(-1, 1, 1, 1)
    test = (np.zeros((test_size, 1, 1, 1), np.uint8), np.zeros(test_size, np.int32))
    return Dataset("toy", images, labels, *test, len(counts), (0.0,), (1.0,))


def counts_of(part, num_classes):
    return np.bincount(part.labels, minlength=num_classes).tolist()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_mnist_pool_at_100_is_the_papers(mnist):
    parts = split(KEY, mnist, validation_size=10_000, imbalance_ratio=100.0)
    assert counts_of(parts.validation, 10) == [1000] * 10
    assert counts_of(parts.pool, 10)[:5] == [4923, 5742, 4958, 5131, 4842]
    assert sum(counts_of(parts.pool, 10)[5:]) == 256
    assert len(parts.tuning.ids) == 0 and len(parts.test.ids) == 10_000


def test_same_key_same_bytes_other_key_other_split(digits):
    options = {"validation_size": 200, "tuning_size": 50, "imbalance_ratio": 5.0}
    first, again = split(KEY, digits, **options), split(KEY, digits, **options)
    other = split(jax.random.key(1), digits, **options)
    for a, b in zip(first[:4], again[:4], strict=True):
        assert same(a, b)
    assert not np.array_equal(first.pool.ids, other.pool.ids)
    assert not np.array_equal(first.validation.ids, other.validation.ids)


@given(
    seed=st.integers(0, 2**31 - 1),
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=6),
    sizes=st.tuples(st.integers(1, 30), st.integers(0, 29)).filter(
        lambda sizes: sizes[0] > sizes[1]
    ),
)
@settings(max_examples=12, deadline=None)
def test_splits_partition_the_training_part(seed, counts, sizes):
    dataset = toy(counts)
    validation_size, tuning_size = sizes
    try:
        splits = split(
            jax.random.key(seed),
            dataset,
            validation_size=validation_size,
            tuning_size=tuning_size,
        )
    except UserError:
        assert min(counts) <= -(-validation_size // len(counts))
        return
    parts = splits[:3]
    ids = np.concatenate([part.ids for part in parts])
    np.testing.assert_array_equal(np.sort(ids), np.arange(sum(counts)))
    assert len(splits.tuning.ids) == tuning_size
    assert len(splits.validation.ids) == validation_size - tuning_size
    for part in parts:
        assert (np.diff(part.ids) > 0).all() and part.ids.dtype == np.int32
        np.testing.assert_array_equal(part.images, dataset.train_images[part.ids])
        np.testing.assert_array_equal(part.labels, dataset.train_labels[part.ids])
    held_out = np.concatenate([splits.validation.labels, splits.tuning.labels])
    for labels in (held_out, splits.tuning.labels):
        spread = np.bincount(labels, minlength=len(counts))
        assert spread.max() - spread.min() <= 1
        assert (np.diff(spread) <= 0).all()


def test_tuning_size_moves_neither_pool_nor_held_out_set(digits):
    options = {"validation_size": 200, "imbalance_ratio": 5.0}
    without = split(KEY, digits, **options)
    tuned = split(KEY, digits, tuning_size=60, **options)
    assert same(without.pool, tuned.pool)
    union = np.union1d(tuned.validation.ids, tuned.tuning.ids)
    np.testing.assert_array_equal(union, without.validation.ids)


@pytest.mark.parametrize("imbalance", ["step", "long_tail"])
def test_pools_of_growing_ratio_are_nested(digits, imbalance):
    pools = [
        set(
            split(
                KEY,
                digits,
                validation_size=200,
                imbalance=imbalance,
                imbalance_ratio=ratio,
            ).pool.ids.tolist()
        )
        for ratio in (1.0, 3.0, 10.0, 20.0)
    ]
    assert pools[0] > pools[1] > pools[2] > pools[3]


def test_step_thins_the_rare_classes_together():
    splits = split(
        KEY, toy([110, 120, 130, 140]), validation_size=40, imbalance_ratio=7.0
    )
    counts = counts_of(splits.pool, 4)
    assert counts[:2] == [100, 110]
    assert sum(counts[2:]) == 30  # 210 / 7
    chosen = split(
        KEY,
        toy([110, 120, 130, 140]),
        validation_size=40,
        imbalance_ratio=7.0,
        rare_classes=[0],
    )
    assert counts_of(chosen.pool, 4) == [round(360 / 7), 110, 120, 130]


def test_step_keeps_all_rare_images_where_they_are_fewer_than_the_ratio_allows():
    kept = step_imbalance(KEY, np.array([0] * 50 + [1] * 5), 2, ratio=2.0)
    np.testing.assert_array_equal(kept, np.arange(55))


def test_ratio_one_keeps_everything_even_where_rare_classes_are_larger():
    labels = np.array([0] * 5 + [1] * 50)
    for thin in (step_imbalance, long_tail):
        np.testing.assert_array_equal(thin(KEY, labels, 2, ratio=1), np.arange(55))


def test_rare_images_are_drawn_from_all_rare_classes_evenly():
    labels = np.repeat([0, 1, 2], [2000, 500, 500])
    kept = step_imbalance(KEY, labels, 3, ratio=10.0)
    counts = np.bincount(labels[kept])
    assert counts[0] == 2000 and counts[1:].sum() == 200
    # Hypergeometric: mean 100, standard deviation 6.3; the margin is six of them.
    assert abs(counts[1] - 100) < 40


def test_long_tail_is_geometric():
    labels = np.repeat(np.arange(5), 1000)
    kept = long_tail(KEY, labels, 5, ratio=16.0)
    assert np.bincount(labels[kept]).tolist() == [1000, 500, 250, 125, 62]
    kept = long_tail(KEY, labels, 5, ratio=16.0, rare_classes=[1, 0])
    assert np.bincount(labels[kept]).tolist() == [62, 125, 1000, 500, 250]


def test_every_subset_of_a_class_is_equally_likely():
    labels = np.repeat([0, 1], 4)
    draws = np.zeros(8)
    for seed in range(150):
        draws[balanced_subset(jax.random.key(seed), labels, 2, 2)] += 1
    # Binomial(150, 1/4): mean 37.5, standard deviation 5.3.
    assert draws.sum() == 300 and abs(draws - 37.5).max() < 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_size": 0}, "validation size must be at least 1, got 0"),
        ({"validation_size": -3}, "validation size must be at least 1, got -3"),
        ({"tuning_size": 10}, "tuning size .* below the validation size, 10, got 10"),
        ({"tuning_size": -1}, "tuning size must be at least 0 .*, got -1"),
        (
            {"validation_size": 50},
            "of 50 needs 25 images of class 1, which has 20; choose at most 40",
        ),
        ({"validation_size": 40}, "leaves class 1 without an image"),
        ({"imbalance": "steep"}, "'steep' is unknown; choose step or long_tail"),
        ({"imbalance_ratio": 0.5}, "ratio must be at least 1, got 0.5"),
        ({"imbalance_ratio": float("nan")}, "ratio must be at least 1, got nan"),
        ({"imbalance_ratio": 1000.0}, "ratio 1000 leaves class 1 without an image"),
        ({"imbalance_ratio": float("inf")}, "ratio inf leaves class 1"),
        (
            {"imbalance_ratio": 1000.0, "imbalance": "long_tail"},
            "ratio 1000 leaves class 1 without an image",
        ),
        ({"rare_classes": [2]}, "rare class 2 is unknown; classes are 0 to 1"),
        ({"rare_classes": [-1]}, "rare class -1 is unknown"),
        ({"rare_classes": []}, "0 of 2 classes are rare"),
        ({"rare_classes": [0, 1]}, "2 of 2 classes are rare"),
    ],
)
def test_impossible_splits_are_explained(options, message):
    with pytest.raises(UserError, match=message) as caught:
        split(KEY, toy([30, 20]), **{"validation_size": 10, **options})
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)
