"""The model of a labeling session, whose number of classes may grow."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Model, Variables, key_for
from fkjax.data.labeled_folder import OwnImages
from fkjax.experiment.config import Config
from fkjax.experiment.deployment import correction_rule
from fkjax.experiment.driver import Arrays, Driver, RoundState, make_driver
from fkjax.experiment.records import measures, member_measures, protocol_measures
from fkjax.labeling.own_model import enlarged, model_of_images
from fkjax.training import evaluation, fit


class Learner:
    """Trains and measures the model of a session.

    Attributes:
        arrays: images of the session, and the labels of its validation and test sets.
    """

    def __init__(self, config: Config, own: OwnImages, key: jax.Array):
        """Reads the images that are in memory, and compiles nothing yet.

        Args:
            config: settings of the session.
            own: images of the session.
            key: random key of the session.
        """
        self._config, self._own, self._key = config, own, key
        # The train set follows the pool, as if it had been queried.
        positions = np.concatenate([own.pool, own.train])
        reported = own.test if len(own.test) else own.validation
        pool, validation, test_images = (
            jax.tree.map(jnp.asarray, own.images[at])
            for at in (positions, own.validation, reported)
        )
        validation_labels, test_labels = (
            jnp.asarray(own.labels[at]) for at in (own.validation, reported)
        )
        self.arrays = Arrays(
            pool,
            validation,
            test_images,  # not used: no epoch is selected
            test_images,
            validation_labels,
            test_labels,
            test_labels,
        )
        self._made: dict[int, tuple[Model, Driver]] = {}

    def parts(self, classes: Sequence[str]) -> tuple[Model, Driver]:
        """Returns the model with some classes and its compiled rounds."""
        num_classes = len(classes)
        if num_classes not in self._made:
            config = self._config
            model = model_of_images(self._own, config, num_classes=num_classes)
            driver = make_driver(
                model,
                schedule=config.training(),
                capacity=len(self.arrays.pool),
                trains_on_validation=config.trains_on_validation,
                correction=correction_rule(config, classes),
            )
            self._made[num_classes] = model, driver
        return self._made[num_classes]

    def updated(
        self, state: RoundState, classes: Sequence[str], indices: Any, labels: Any
    ) -> RoundState:
        """Trains with new labels; the result has no held-out predictions."""
        state = state._replace(held_out=None)
        update, at = self.parts(classes)[1].update, jnp.asarray(indices)
        state = update(state, self.arrays, at, jnp.asarray(labels))
        return jax.block_until_ready(state)

    def holding_out(
        self, state: RoundState, classes: Sequence[str], start: Variables
    ) -> RoundState:
        """Returns a state with its held-out predictions.

        Args:
            state: state of the session.
            classes: names of its classes.
            start: variables before any label, perhaps of fewer classes.

        Raises:
            UserError: if training without a part of the validation set leads to NaN.
        """
        model, driver = self.parts(classes)
        arrays = self.arrays
        if self._config.trains_on_validation:
            fresh = model.init(key_for(self._key, "classes of folds", len(classes)))
            arrays = arrays._replace(start=enlarged(start, fresh))
        state = state._replace(held_out=None)
        held_out = jax.block_until_ready(driver.hold_out(state, arrays))
        if held_out is not None:
            fit.require_finite(
                Variables(held_out.log_probs),
                "training on a part of the validation set",
            )
        return state._replace(held_out=held_out)

    def measures(self, state: RoundState, classes: Sequence[str]) -> dict[str, Any]:
        """Returns the fields of a record that measure the model.

        Without a test set, they are measured on the validation set, by the held-out
        predictions if the model was trained on it.
        """
        model, driver = self.parts(classes)
        is_mistake = np.asarray(driver.mistakes(state, self.arrays))
        has_test = len(self._own.test) > 0
        is_in_sample = not has_test and self._config.trains_on_validation
        if is_in_sample:
            assert state.held_out is not None
            deployed, uncorrected = (
                np.asarray(
                    evaluation.confusion_matrix(
                        self.arrays.validation_labels,
                        predicted,
                        num_classes=model.num_classes,
                    )
                )
                for predicted in (
                    state.held_out.predictions,
                    state.held_out.log_probs.argmax(axis=1),
                )
            )
            members = np.zeros(0)
        else:
            deployed, uncorrected, members = map(
                np.asarray, driver.evaluate(state, self.arrays)
            )
        measured = measures(deployed)
        correction = state.held_out.correction if state.held_out else None
        more = protocol_measures(self._config, uncorrected, correction)
        if not has_test:
            measured["test_accuracy"] = None
            more |= {"test_accuracy_uncorrected": None} if more else {}
        return {
            # The set of the next four: without a test set, the validation set.
            "measured_on": "test" if has_test else "validation",
            **measured,
            "confusion": deployed.tolist(),
            "validation_accuracy": float(1 - is_mistake.mean()),
            **member_measures(members),
            **more,
        }
