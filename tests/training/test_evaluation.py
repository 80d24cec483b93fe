"""Compares the measures of accuracy with those of scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from fkjax.base import Model, Variables, no_tap
from fkjax.training import evaluation


def table_model():
    """Classifies an image by the position of its largest pixel."""

    def apply(variables, images, tap=no_tap):
        return tap(
            "logits", images.reshape(len(images), -1) + variables.parameters[None]
        )

    return Model(lambda key: START, apply, ("logits",), "", (2, 2, 1), 4)


START = Variables(jnp.zeros(4))
MODEL = table_model()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(23, 2, 2, 1)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_predictions_are_the_most_probable_class(images, batch_size):
    predicted = evaluation.predictions(MODEL, START, images, batch_size=batch_size)
    np.testing.assert_array_equal(predicted, images.reshape(23, 4).argmax(axis=1))
    assert predicted.dtype == jnp.int32
    biased = evaluation.predictions(MODEL, Variables(jnp.eye(4)[2] * 100), images)
    np.testing.assert_array_equal(biased, 2)


def test_accuracy_is_scikit_learns(images):
    labels = np.random.default_rng(1).integers(0, 4, 23)
    predicted = images.reshape(23, 4).argmax(axis=1)
    np.testing.assert_allclose(
        evaluation.accuracy(MODEL, START, images, labels),
        metrics.accuracy_score(labels, predicted),
        rtol=1e-6,
    )


def test_confusion_is_scikit_learns_with_the_truth_in_the_rows():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 200))
    confusion = evaluation.confusion_matrix(labels, predicted, num_classes=6)
    np.testing.assert_array_equal(
        confusion, metrics.confusion_matrix(labels, predicted, labels=range(6))
    )
    jitted = jax.jit(lambda a, b: evaluation.confusion_matrix(a, b, num_classes=6))(
        labels, predicted
    )
    np.testing.assert_array_equal(jitted, confusion)


def test_class_accuracy_is_scikit_learns_recall():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 200))
    confusion = metrics.confusion_matrix(labels, predicted)
    by_class = evaluation.class_accuracy(confusion)
    recall = metrics.recall_score(labels, predicted, average=None)
    np.testing.assert_allclose(by_class, recall, rtol=1e-12)
    np.testing.assert_allclose(
        by_class.mean(), metrics.balanced_accuracy_score(labels, predicted), rtol=1e-12
    )


def test_a_class_without_an_example_has_no_accuracy(recwarn):
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]])
    np.testing.assert_array_equal(
        evaluation.class_accuracy(confusion), [0.75, np.nan, 1.0]
    )
    assert not recwarn.list
