"""Problems made from features and logits: exact Fisher vectors, also if streamed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from fkjax.acquisition import ORACLES, STRATEGIES, Settings, make_strategy
from fkjax.acquisition.pseudo_label import given
from fkjax.base import UserError
from fkjax.data import columns as arrays
from fkjax.fisher.descriptors import descriptor
from fkjax.fisher.kernel import last_layer
from fkjax.fisher.vectors import fisher_vectors, of_parameters
from fkjax.models import from_outputs, lenet
from fkjax.selection.choose import choose
from fkjax.selection.from_outputs import SUFFICE, problem_of_outputs
from fkjax.selection.select import select

RNG = np.random.default_rng(0)
WIDTH, CLASSES, BUDGET = 6, 3, 7


def part(num, shift=0.0):
    labels = RNG.integers(0, CLASSES, num)
    features = RNG.normal(size=(num, WIDTH)) + 2 * np.eye(CLASSES, WIDTH)[labels]
    logits = features[:, :CLASSES] + np.arange(CLASSES) * shift
    made = {"features": features, "logits": logits}
    return {k: v.astype(np.float32) for k, v in made.items()}, labels


POOL, _ = part(400)
VALIDATION, LABELS = part(60, shift=1.0)
VALIDATION = VALIDATION | {"labels": LABELS}


@pytest.fixture
def problem():
    return problem_of_outputs(POOL, VALIDATION)


def test_features_and_logits_give_the_last_layers_fisher_vectors_exactly():
    model = lenet((8, 8, 1), 4)
    variables = model.init(jax.random.key(0))
    images = jnp.asarray(RNG.integers(0, 256, (6, 8, 8, 1)), jnp.uint8)
    labels = jnp.array([0, 1, 2, 3, 0, 1])
    log_probs_fn, theta = of_parameters(model, variables, ["fc2"])
    vectors = jax.jit(fisher_vectors, static_argnums=0)(
        log_probs_fn, theta, images, labels
    )
    flat = jnp.concatenate([x.reshape(6, -1) for x in jax.tree.leaves(vectors)], 1)
    flat /= jnp.linalg.norm(flat, axis=1, keepdims=True)

    seen = {}

    def tap(name, activation):
        seen[name] = activation
        return activation

    logits = model.apply(variables, images, tap)
    rows = jnp.concatenate([seen["fc1"], logits], 1)[:, None, None]
    outside = from_outputs(50, 4)
    kernel = last_layer("features", "logits", 4)

    def embed(row, label):
        d = descriptor(
            outside, outside.init(None), row, given(label), taps=("features", "logits")
        )
        return kernel.embed(d.z, d.g)

    embeddings = jax.jit(jax.vmap(embed))(rows, labels)
    found = kernel.similarity(embeddings, embeddings)
    np.testing.assert_allclose(found, flat @ flat.T, atol=2e-6)


@pytest.mark.parametrize("strategy", ["fisher_nearest", "feature_match", "margin"])
def test_a_pool_that_is_streamed_gives_what_one_in_memory_gives(
    strategy, problem, monkeypatch
):
    monkeypatch.setattr(arrays, "_IN_MEMORY", 0)
    told = []
    streamed = problem_of_outputs(POOL, VALIDATION, tell=lambda *n: told.append(n))
    problem, streamed = (
        dataclasses.replace(p, batch_size=64) for p in (problem, streamed)
    )
    expected, found = (
        choose(p, budget=BUDGET, strategy=strategy) for p in (problem, streamed)
    )
    assert found.indices.tolist() == expected.indices.tolist()
    assert [p._replace(score=None) for p in found.picks] == [
        p._replace(score=None) for p in expected.picks
    ]
    if strategy == "fisher_nearest":
        assert sum(rows for rows, _ in told) >= 400 and {n for _, n in told} == {400}


def test_what_is_wrong_far_into_a_file_is_told_when_it_is_reached(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(arrays, "_IN_MEMORY", 0)
    rows = POOL["features"].tolist()
    rows[300] = None
    table = {"features": rows, "logits": POOL["logits"].tolist()}
    path = tmp_path / "pool.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path, row_group_size=64)
    with pytest.raises(UserError, match="features has empty cells"):
        choose(problem_of_outputs(path, VALIDATION), budget=BUDGET)


def test_those_that_suffice_are_those_that_make_no_pass_of_their_own():
    model = from_outputs(WIDTH, CLASSES)
    for name in set(STRATEGIES) - set(SUFFICE):
        needs_the_network = name == "vaal" or name in ORACLES or "fisher_" in name
        if not needs_the_network:
            with pytest.raises(UserError, match="dropout"):
                make_strategy(
                    STRATEGIES[name], model, Settings(budget=1, taps=("features",))
                )


def test_uncertainty_is_not_drawn_by_lot_when_the_network_is_trained(problem):
    margins = np.sort(np.exp(POOL["logits"]) / np.exp(POOL["logits"]).sum(1)[:, None])
    expected = np.argsort(margins[:, -1] - margins[:, -2])[:BUDGET]
    found = choose(problem, budget=BUDGET, strategy="margin")
    assert sorted(found.indices.tolist()) == sorted(expected.tolist())


def test_labels_may_be_names_and_ids_anything():
    ids = np.array([f"p{i}.png" for i in range(400)])
    names = np.array(["cat", "dog", "eel"])
    known = VALIDATION | {"labels": names[LABELS], "ids": np.arange(60) + 1000}
    problem = problem_of_outputs(POOL | {"ids": ids}, known, classes=names)
    (pick,) = choose(problem, budget=1).picks
    assert pick.id in ids and pick.pseudo_label in names
    assert pick.answers.label == names[LABELS[pick.answers.id - 1000]]
    by_number = choose(problem_of_outputs(POOL, VALIDATION), budget=1)
    assert by_number.indices[0] == int(pick.id[1:-4])


def test_what_is_labelled_is_not_chosen():
    first = choose(problem_of_outputs(POOL, VALIDATION), budget=BUDGET)
    ids = [p.id for p in first.picks]
    second = choose(problem_of_outputs(POOL, VALIDATION, labeled=ids), budget=BUDGET)
    assert second.num_unlabeled == 400 - BUDGET
    assert not set(ids) & {p.id for p in second.picks}
    as_text = problem_of_outputs(POOL, VALIDATION, labeled=map(str, ids))
    assert (as_text.is_unlabeled == problem_of_outputs(
        POOL, VALIDATION, labeled=ids
    ).is_unlabeled).all()  # fmt: skip


def test_bytes_are_ids_and_labels():
    names = np.array(["kæt", "dog", "eel"])
    encoded = np.char.encode(names, "utf-8")
    ids = np.char.encode(np.array([f"é{i}" for i in range(400)]), "utf-8")
    known = VALIDATION | {"labels": encoded[LABELS]}
    for classes in (encoded, names.tolist()):
        problem = problem_of_outputs(
            POOL | {"ids": ids}, known, classes=classes, labeled=[ids[3], "é5"]
        )
        assert np.flatnonzero(~problem.is_unlabeled).tolist() == [3, 5]
        assert problem.validation_labels.tolist() == LABELS.tolist()
        assert problem.classes == names.tolist()
    (pick,) = choose(problem, budget=1).picks
    assert pick.id in np.char.decode(ids, "utf-8")


def test_bfloat16_gives_what_its_values_in_float32_give():
    def chosen(dtype, kind):
        parts = (POOL, {name: VALIDATION[name] for name in POOL})
        pool, known = (
            {name: kind(x.astype(jnp.bfloat16), dtype) for name, x in part.items()}
            for part in parts
        )
        known["labels"] = LABELS
        return choose(problem_of_outputs(pool, known), budget=BUDGET)

    expected = chosen(np.float32, np.asarray).picks
    assert chosen(jnp.bfloat16, np.asarray).picks == expected
    assert chosen(jnp.bfloat16, jnp.asarray).picks == expected


def test_objects_of_plain_values_are_taken():
    ids = np.array([f"p{i}.png" for i in range(400)], object)
    labels = LABELS.astype(object)
    given = problem_of_outputs(
        POOL | {"ids": ids}, VALIDATION | {"labels": labels}, labeled=["p7.png"]
    )
    assert np.flatnonzero(~given.is_unlabeled).tolist() == [7]
    assert given.validation_labels.tolist() == LABELS.tolist()


def test_ids_and_labels_may_be_columns_of_one():
    ids = np.array([f"p{i}" for i in range(400)])
    columns = {"ids": ids[:, None]}, {"labels": LABELS[:, None]}
    rows = {"ids": ids}, {"labels": LABELS}
    found, expected = (
        problem_of_outputs(POOL | pool, VALIDATION | known, labeled=labeled)
        for (pool, known), labeled in ((columns, ids[3:5, None]), (rows, ids[3:5]))
    )
    assert found.pool_ids.tolist() == expected.pool_ids.tolist()
    assert found.validation_labels.tolist() == LABELS.tolist()
    assert np.flatnonzero(~found.is_unlabeled).tolist() == [3, 4]


def test_a_pool_of_labeled_examples_is_refused():
    problem = problem_of_outputs(POOL, VALIDATION, labeled=range(400))
    with pytest.raises(UserError, match="all 400 examples of the pool are labeled"):
        choose(problem, budget=1)


def changed(part, **changes):
    made = part | changes
    return {name: value for name, value in made.items() if value is not None}


@pytest.mark.parametrize(
    ("pool", "validation", "options", "match"),
    [
        ({"logits": None}, {}, {}, "pool must have logits, got features"),
        ({}, {"labels": None}, {}, "validation set must have labels"),
        ({"features": POOL["features"][:, 0]}, {}, {}, r"shape \[examples, numbers\]"),
        ({n: x[:0] for n, x in POOL.items()}, {}, {}, "the pool has no example"),
        ({"features": POOL["features"][:9]}, {}, {}, "the same length"),
        ({"features": POOL["features"][:, 1:]}, {}, {}, "5 features .* set 6"),
        ({"logits": POOL["logits"][:, 1:]}, {}, {}, "2 logits"),
        ({"features": np.full((400, 6), "a")}, {}, {}, "must be numbers, got <U1"),
        ({}, {"labels": LABELS + 1}, {}, r"is 3, but the classes, .* are 0, 1, 2"),
        ({}, {"labels": LABELS.astype(str)}, {"classes": "abc"}, "are a, b, c"),
        ({}, {"labels": np.eye(3)[LABELS]}, {}, r"\(60, 3\); if they are one-hot"),
        ({"ids": np.zeros((400, 2))}, {}, {}, r"ids .* got shape \(400, 2\); give one"),
        ({}, {}, {"classes": ["a", "b"]}, "3 classes"),
        ({}, {}, {"classes": ["a", "b", "b"]}, "3 classes"),
        ({}, {}, {"labeled": [400]}, "400 is not in the pool"),
        ({}, {}, {"labeled": ["x"]}, "x is not in the pool"),
        ({"ids": np.zeros(400)}, {}, {}, "distinct"),
        ({"logits": POOL["logits"][:, :1]}, {"logits": VALIDATION["logits"][:, :1]}, {},
         "2 or more classes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(pool, validation, options, match):
    with pytest.raises(UserError, match=match) as caught:
        problem_of_outputs(
            changed(POOL, **pool), changed(VALIDATION, **validation), **options
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
def test_files_of_each_format_give_the_picks_of_the_arrays(suffix, tmp_path):
    pool = {name: POOL[name] for name in ("features", "logits")}
    path = tmp_path / f"pool.{suffix}"
    if suffix == "npz":
        np.savez(path, **pool)
    elif suffix == "safetensors":
        safetensors.numpy.save_file(pool, path)
    else:
        table = {name: pyarrow.array(list(rows)) for name, rows in pool.items()}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    asked = {"budget": 5, "strategy": "fisher_nearest"}
    found = choose(problem_of_outputs(path, VALIDATION), **asked)
    wanted = choose(problem_of_outputs(pool, VALIDATION), **asked)
    np.testing.assert_array_equal(found.indices, wanted.indices)


# Extreme values.


def chosen(strategy="fisher_nearest", *, scale=1.0, labeled=(), edit=None):
    rng = np.random.default_rng(1)
    features = rng.standard_normal((52, 6)).astype(np.float32) * np.float32(scale)
    logits = rng.standard_normal((52, 3)).astype(np.float32)
    if edit:
        edit(features, logits)
    pool = {"features": features[12:], "logits": logits[12:]}
    validation = {"features": features[:12], "logits": logits[:12]}
    validation["labels"] = np.random.default_rng(2).integers(0, 3, 12)
    selection = select(pool, validation, budget=5, strategy=strategy, labeled=labeled)
    return [pick.id for pick in selection.picks], [p.score for p in selection.picks]


def test_features_whose_squares_overflow_are_compared():
    large, huge = chosen(scale=1e10), chosen(scale=1e25)
    assert huge[0] == large[0]
    np.testing.assert_allclose(huge[1], large[1], rtol=1e-4)


@pytest.mark.parametrize("strategy", SUFFICE)
def test_a_logit_of_minus_infinity_is_a_probability_of_0(strategy):
    def mask(value):
        def edit(features, logits):
            logits[:, 0] = value

        return edit

    ids, scores = chosen(strategy, edit=mask(-np.inf))
    expected, expected_scores = chosen(strategy, edit=mask(-90))
    assert ids == expected
    if strategy != "random":
        np.testing.assert_allclose(scores, expected_scores, atol=0.02)


def test_nan_in_a_labeled_row_does_not_matter():
    def edit(features, logits):
        features[15, 0] = np.nan

    assert chosen(labeled=[3], edit=edit) == chosen(labeled=[3])
    with pytest.raises(UserError, match=r"1 pool example.*ids 3"):
        chosen(edit=edit)
