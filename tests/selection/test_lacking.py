"""Validation labels of classes for which the model has no output."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fkjax
from fkjax.acquisition.pseudo_label import given
from fkjax.acquisition.uncertainty import stochastic_log_probs
from fkjax.base import UserError
from fkjax.commands.select import main
from fkjax.fisher.descriptors import descriptor, feature_derivatives
from fkjax.models import from_outputs
from fkjax.models.ensemble import ensemble
from fkjax.models.lacking import with_lacking_classes
from fkjax.selection.choose import choose, probabilities
from fkjax.selection.from_network import problem_of_network
from fkjax.selection.from_outputs import problem_of_outputs
from fkjax.selection.lacking import read_labels
from tests.tiny import TAPS, tiny

ANIMALS = ["cat", "dog", "wolf"]


@pytest.mark.parametrize(
    ("labels", "classes", "names", "numbers"),
    [
        ([0, 1, 4, 3], None, "01234", [0, 1, 4, 3]),
        (["0", "3"], None, "0123", [0, 3]),
        ([0.0, 3.0], None, "0123", [0, 3]),
        (["cat", "owl", "eel"], ANIMALS, [*ANIMALS, "eel", "owl"], [0, 4, 3]),
        (["cat", "owl"], [*ANIMALS, "owl", "eel"], [*ANIMALS, "owl", "eel"], [0, 3]),
        ([0, 3], [*ANIMALS, "owl"], [*ANIMALS, "owl"], [0, 3]),
        (["cat", "wolff"], [*ANIMALS, "wolff"], [*ANIMALS, "wolff"], [0, 3]),
        # Names that are numbers, such as `classes_` of scikit-learn.
        ([0, 4, 5, 3], np.array([0, 1, 3]), "01345", [0, 3, 4, 2]),
        ([0, 2, 3], [0, 1, 3], "0132", [0, 3, 2]),
        ([1, 2, 4], ["1", "2", "3"], "1234", [0, 1, 3]),
        (["type A", "type B"], ["type A", "b 1", "b 2"], None, [0, 3]),
    ],
)
def test_labels_of_classes_without_an_output(labels, classes, names, numbers):
    found = read_labels(np.array(labels), classes, 3)
    assert found.numbers.tolist() == numbers
    assert names is None or found.classes == list(names)
    assert found.num_lacking == len(found.classes) - 3


@pytest.mark.parametrize(
    ("labels", "classes", "match"),
    [
        ([0, 255], None, "label 1 is 255, .* 255 does not follow"),
        ([0, 1, -1], None, "-1 does not follow"),
        ([0, 4], None, "4 does not follow"),
        ([0, 10**6], [0, 1, 2], "1000000 does not follow"),
        ([0, -1], [0, 1, 2], "-1 does not follow"),
        ([1, 2, 3], None, "no label is 0, so that labels may be counted from 1"),
        ([3, 4], None, "no label is one of them"),
        (range(7), None, "the labels have more other classes"),
        ([0, 1, 2], ["0", "1", "3"], "names or positions from 0"),
        ([0, 3], ANIMALS, "label 1 is 3, but the classes"),
        (["cat", "Wolf"], ANIMALS, "label 1 is Wolf, .*; wolf is similar: fix it, or"),
        (["cat", "wo lf "], ANIMALS, "wolf is similar"),
        (["cat", "wolff"], ANIMALS, "wolf is similar"),
        (["cat", "ｗolf"], ANIMALS, "wolf is similar"),
        (["cat", "Owl", "owl"], ANIMALS, "label 2 is owl, .*; Owl is similar"),
        (["cat", "owl", "N/A"], ANIMALS, "it may mark a missing label"),
        (["cat", " "], ANIMALS, "it may mark a missing label"),
        (["cat", "３"], ANIMALS, "it is a number"),
        (["owl", "eel"], ANIMALS, "no label is one of them"),
        (["cat", "dog"], [*ANIMALS, "owl"], "3 classes .* no validation example is of"),
    ],
)
def test_labels_that_may_be_errors_are_refused(labels, classes, match):
    with pytest.raises(UserError, match=match):
        read_labels(np.array(labels), classes, 3)


RNG = np.random.default_rng(0)
TRUE, KNOWN = np.arange(200) % 4, np.arange(60) % 4


def part(labels):
    """Four clusters; the logits are of the first three."""
    features = RNG.normal(size=(len(labels), 6)) + 4 * np.eye(4, 6)[labels]
    return {"features": features.astype(np.float32), "logits": features[:, :3]}


POOL, VALIDATION = part(TRUE), part(KNOWN) | {"labels": KNOWN}


def test_their_examples_are_mistakes_and_their_neighbors_are_found():
    with pytest.warns(UserWarning, match=r"no output for 3: .* \(15\) count as mistak"):
        found = fkjax.select(POOL, VALIDATION, budget=10)
    assert found.is_mistake[KNOWN == 3].all()
    assert (TRUE[found.indices] == 3).sum() >= 8
    assert {pick.answers.label for pick in found.picks} >= {"3"}
    assert (found.probabilities[:, 3] == 0).all()
    assert "0, 1, 2, in this order" in found.notes[0] and len(found.notes) == 1


def test_the_probabilities_of_the_models_classes_are_unchanged():
    problem = problem_of_outputs(POOL, VALIDATION)
    of_known = problem_of_outputs(POOL, VALIDATION | {"labels": KNOWN % 3})
    assert (problem.num_lacking, of_known.num_lacking) == (1, 0)
    np.testing.assert_allclose(
        probabilities(problem, problem.pool)[:, :3],
        probabilities(of_known, of_known.pool),
        rtol=1e-6,
    )


def test_the_gradient_of_a_class_without_a_logit_is_that_of_all_classes():
    row = jnp.array([[[0.5, 0.5, 1.0, 2.0, 3.0]]])
    model = from_outputs(2, 3, 2)
    d = descriptor(model, model.init(None), row, given(4), taps=model.taps)
    p = jax.nn.softmax(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(d.g["logits"], [*-p, 0, 1], atol=1e-6)
    assert d.z["logits"].tolist() == [1, 2, 3, 2, 2]


def test_a_network_without_an_output_for_a_class():
    model = tiny((8, 8, 1), 3)
    variables = model.init(jax.random.key(0))
    images = RNG.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    known = {"images": images[:9], "labels": np.arange(9) % 4}
    problem = problem_of_network({"images": images}, known, model, variables, taps=TAPS)
    assert problem.model is with_lacking_classes(model, 1)
    found = choose(problem, budget=3, strategy="margin")
    assert found.is_mistake[3::4].all() and np.isfinite(found.picks[0].score)
    assert (found.probabilities[:, 3] == 0).all()
    products = feature_derivatives(problem.model, variables, images[0], taps=TAPS)
    assert np.isfinite(products).all()


def test_an_ensemble_whose_members_have_no_output_for_a_class():
    model = with_lacking_classes(ensemble(tiny((8, 8, 1), 3), 2), 1)
    passes = functools.partial(stochastic_log_probs, model=model, num_passes=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct(model.image_shape, np.uint8)
    found = jax.eval_shape(passes, jax.random.key(0), variables=shapes, image=image)
    assert found.shape == (10, 4)


def test_classes_that_the_model_or_the_validation_set_lacks_are_named(tmp_path, capsys):
    labels = np.where(KNOWN == 2, 0, KNOWN)
    np.savez(tmp_path / "pool.npz", **POOL)
    np.savez(tmp_path / "validation.npz", **VALIDATION | {"labels": labels})
    argv = ["--pool", str(tmp_path / "pool.npz"), "--budget", "3"]
    argv += ["--validation", str(tmp_path / "validation.npz")]
    assert main([*argv, "--classes", *ANIMALS, "owl"]) == 0
    said = capsys.readouterr().err
    assert "fkjax: the model has no output for owl: their validation examples" in said
    assert "fkjax: the validation set has no example of wolf: the pool's" in said


def test_a_name_in_another_unicode_form_is_a_class_of_the_model():
    found = read_labels(np.array(["cafe\u0301", "owl"]), ["caf\u00e9", "owl"], 2)
    assert found.num_lacking == 0 and found.numbers.tolist() == [0, 1]
