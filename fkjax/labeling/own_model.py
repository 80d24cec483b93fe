"""Models of fkjax, trained on a user's own images."""

import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Model, Variables, check_name, key_for, seed_key
from fkjax.data.labeled_folder import OwnImages
from fkjax.data.reading import plain_errors
from fkjax.experiment.config import Config
from fkjax.experiment.setup import make_model, starter
from fkjax.selection.copies import Copies, conflicts, copies_of
from fkjax.selection.problem import Problem
from fkjax.training import fit as training
from fkjax.training.pretraining import ROTATIONS


def model_of_images(own: OwnImages, config: Config, *, num_classes: int) -> Model:
    """Makes the classifier that the settings name.

    Args:
        own: images to classify.
        config: settings of the model.
        num_classes: number of classes, C.

    Raises:
        UserError: if the model does not exist, does not take images of this size, or
            lacks a tap.
    """
    model = make_model(
        config, own.images.shape[1:], num_classes, mean=own.mean, std=own.std
    )
    for tap in config.taps:
        check_name(tap, model.taps, "tap")
    return model


def started(own: OwnImages, config: Config, model: Model) -> Variables:
    """Initializes or pretrains the variables of a model, as the settings say.

    Args:
        own: images whose pool the model is pretrained on.
        config: settings of the pretraining and the seed.
        model: classifier of these images.

    Raises:
        UserError: if pretraining leads to NaN or infinity.
    """
    rotation_model = model_of_images(own, config, num_classes=ROTATIONS)
    start = jax.jit(starter(config, model, rotation_model))
    variables = start(seed_key(config.seed), own.images[own.pool])
    training.require_finite(variables, f"--pretraining {config.pretraining}")
    return variables


def copies_among(
    own: OwnImages, pool: np.ndarray, *, warn: Callable[[str], object]
) -> Copies:
    """Returns the exact copies among the user's images.

    Args:
        own: images, all of them.
        pool: positions of the images of the pool. Shape [N].
        warn: function called with a message for exact copies with different labels.
    """
    for sentence in conflicts(own.first, own.labels, own.names, own.classes):
        warn(sentence)
    others = np.concatenate([own.validation, own.train, own.test])
    known = np.setdiff1d(others, pool)
    return copies_of(own.first[pool], own.first[known])


def problem_of_images(
    own: OwnImages,
    config: Config,
    *,
    keep_copies: bool = False,
    warn: Callable[[str], object] = warnings.warn,
) -> Problem:
    """Trains a model on the user's images and returns a problem for `choose`.

    The model is pretrained on the pool (`config.pretraining`) and then trained on the
    images of the train set. If there are none, its last layer is untrained, as in the
    first round of an experiment.

    Args:
        own: images from `fkjax.data.labeled_folder.read_own_images`.
        config: settings of the model, its training and its seed, such as
            `fkjax.experiment.presets.image_defaults(image_size=S)`.
        keep_copies: whether all exact copies can be queried, instead of one of each.
        warn: function called with a message for exact copies with different labels.

    Returns:
        A problem with the whole pool, whose ids are the names of the files.

    Raises:
        UserError: if the model cannot be made or trained, or an image cannot be read.
    """
    copies = None if keep_copies else copies_among(own, own.pool, warn=warn)
    with plain_errors(own.images):
        model = model_of_images(own, config, num_classes=len(own.classes))
        variables = started(own, config, model)
        if len(own.train):
            fit = functools.partial(
                training.fit, model=model, schedule=config.training()
            )
            variables = jax.jit(fit)(
                key_for(seed_key(config.seed), "training", 0),
                variables=variables,
                examples=own.images[own.train],
                labels=jnp.asarray(own.labels[own.train]),
                num_labeled=jnp.int32(len(own.train)),
            )
            training.require_finite(variables, "training")
    return Problem(
        model=model,
        variables=variables,
        taps=config.taps,
        pool=own.images[own.pool],
        pool_ids=[own.names[i] for i in own.pool],
        is_unlabeled=np.ones(len(own.pool), bool),
        validation=own.images[own.validation],
        validation_ids=[own.names[i] for i in own.validation],
        validation_labels=own.labels[own.validation],
        classes=own.classes,
        is_trained=len(own.train) > 0,
        copies=copies,
    )


def enlarged(variables: Variables, fresh: Variables) -> Variables:
    """Adds classes to a trained model without changing its logits of the old ones.

    Args:
        variables: variables of the trained model.
        fresh: variables of the same model with more classes, whose last layer is longer
            in its last axis.

    Returns:
        The trained variables, extended by those of `fresh` for the new classes.
    """

    def grown(old: jax.Array, new: jax.Array) -> jax.Array:
        if old.shape == new.shape:
            return old
        return jnp.asarray(new).at[..., : old.shape[-1]].set(old)

    return jax.tree.map(grown, variables, fresh)
