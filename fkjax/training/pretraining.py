"""Self-supervised pretraining on the rotation of images (Gidaris et al., ICLR 2018)."""

from typing import Any

import jax
import jax.numpy as jnp

from fkjax.base import Examples, Model, Variables, key_for
from fkjax.models.ensemble import each_member
from fkjax.parallel.examples import take
from fkjax.training.fit import Schedule, sgd, sgd_step

ROTATIONS = 4


def four_rotations(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotates each image by 0, 90, 180 and 270 degrees.

    Args:
        images: square images. Shape [N, H, H, channels].

    Returns:
        The rotated images, of shape [4 N, H, H, channels], and the number of quarter
        turns of each as its label, of shape [4 N].
    """
    turned = [jnp.rot90(images, turns, axes=(1, 2)) for turns in range(ROTATIONS)]
    return jnp.concatenate(turned), jnp.repeat(jnp.arange(ROTATIONS), len(images))


def pretrain(
    key: jax.Array,
    model: Model,
    variables: Variables,
    images: Examples,
    *,
    schedule: Schedule,
) -> Variables:
    """Trains a model to predict the rotation of the images of the pool, without labels.

    Each batch holds its images in all four rotations. Source: Gudovskiy et al. 2020,
    Sec. 4.4.

    Args:
        key: random key of the order of the images and of the dropout masks.
        model: a classifier with four classes.
        variables: the initial variables.
        images: square images. Shape [N, H, H, channels].
        schedule: the training hyperparameters. The batch size is the number of images
            before rotation.

    Returns:
        The variables after the last epoch.
    """
    if model.member is not None:
        member = model.member
        return each_member(
            lambda key, variables: pretrain(
                key, member, variables, images, schedule=schedule
            ),
            key,
            variables,
        )
    size = min(schedule.batch_size, len(images))

    def train_epoch(epoch: jax.Array, state: tuple) -> tuple:
        order = jax.random.permutation(key_for(key, "order", epoch), len(images))
        num_steps = len(images) // size

        def step(i: jax.Array, state: tuple) -> tuple:
            variables, optimizer_state = state
            batch = jax.lax.dynamic_slice_in_dim(order, i * size, size)
            then = jax.lax.dynamic_slice_in_dim(order, (i + 1) * size, size)
            then = jnp.where(i + 1 < num_steps, then, -1)
            turned, labels = four_rotations(take(images, batch, then))
            return sgd_step(
                key_for(key, "dropout", epoch, i),
                model,
                schedule,
                variables,
                optimizer_state,
                epoch,
                turned,
                labels,
                jnp.ones(len(labels)),
            )

        return jax.lax.fori_loop(0, num_steps, step, state)

    start = (variables, sgd(schedule).init(variables.parameters))
    return jax.lax.fori_loop(0, schedule.epochs, train_epoch, start)[0]


def transfer(model: Model, pretrained: Variables, fresh: Variables) -> Variables:
    """Returns the pretrained variables with the last layer replaced by a fresh one.

    The running statistics are those of the pretrained model, too.

    Args:
        model: the classifier, whose `head` is the last layer.
        pretrained: the variables after pretraining.
        fresh: newly initialized variables of the model.

    Returns:
        The variables to train from.
    """

    def passed_on(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return {**old, **{name: new[name] for name in new if name == model.head}}

    return Variables(*map(passed_on, pretrained, fresh))
