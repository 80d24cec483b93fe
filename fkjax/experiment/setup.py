"""The parts of an experiment: splits, model and strategies."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax import models
from fkjax.acquisition import STRATEGIES, Settings, make_strategy, with_random_share
from fkjax.base import (
    Examples,
    Model,
    Strategy,
    UserError,
    Variables,
    check_name,
    key_for,
    seed_key,
)
from fkjax.data import datasets, splits
from fkjax.experiment.config import Config
from fkjax.experiment.deployment import correction_rule
from fkjax.experiment.driver import Driver, make_driver
from fkjax.experiment.held_out import CorrectionRule
from fkjax.models.ensemble import ensemble
from fkjax.parallel.devices import device_mesh, on_all_devices
from fkjax.training import pretraining


class Experiment(NamedTuple):
    """The parts of an experiment that all seeds share, compiled once.

    Attributes:
        config: settings of the run.
        dataset: dataset of the run.
        model: classifier, or an ensemble of classifiers.
        driver: compiled parts of a round.
        strategies: strategies by name, with compiled queries.
        start: function `start(key, pool) -> variables` that computes the variables
            before the first round.
        mesh: mesh of all devices; None if there is a single device.
        correction: rule of the prior correction.
    """

    config: Config
    dataset: datasets.Dataset
    model: Model
    driver: Driver
    strategies: dict[str, Strategy]
    start: Callable[[jax.Array, Examples], Variables]
    mesh: jax.sharding.Mesh | None
    correction: CorrectionRule

    def parts(self, seed: int) -> splits.Splits:
        """Draws the pool, validation, tuning and test sets of a seed.

        Raises:
            UserError: if the dataset is too small for them.
        """
        config = self.config
        parts = splits.split(
            seed_key(seed),
            self.dataset,
            validation_size=config.validation_size,
            tuning_size=config.tuning_size,
            imbalance=config.imbalance,
            imbalance_ratio=config.imbalance_ratio,
            rare_classes=config.rare_classes,
        )
        wanted = config.rounds * config.budget
        if wanted > len(parts.pool.ids):
            raise UserError(
                f"--rounds {config.rounds} x --budget {config.budget} takes {wanted} "
                f"labels, but the pool of {config.dataset} has {len(parts.pool.ids)} "
                "images: lower one of them"
            )
        return parts


def prepare(config: Config, dataset: datasets.Dataset) -> Experiment:
    """Prepares the parts of an experiment.

    Args:
        config: settings of the run, checked by `fkjax.experiment.checks.check`.
        dataset: dataset of the run.

    Raises:
        UserError: if the settings do not fit the dataset or the devices.
    """
    height, width, _ = image_shape = dataset.train_images.shape[1:]
    make = functools.partial(
        make_model, config, image_shape, mean=dataset.mean, std=dataset.std
    )
    model, rotation_model = make(dataset.num_classes), make(pretraining.ROTATIONS)
    for tap in config.taps:
        check_name(tap, model.taps, "tap")
    if config.pretraining == "rotation" and height != width:
        raise UserError(
            "--pretraining rotation needs square images, but those of "
            f"{config.dataset} are {height} x {width}: use --pretraining none"
        )

    mesh, compiled = None, jax.jit
    if jax.device_count() > 1:
        mesh = device_mesh()
        compiled = functools.partial(on_all_devices, mesh=mesh)
        if config.side_by_side == "yes" and config.seeds > 1:
            raise UserError(
                "--side-by-side yes runs all seeds on one device, but there are "
                f"{mesh.size} devices, all of which each seed uses: leave it out"
            )

    rule = correction_rule(config, [str(c) for c in range(dataset.num_classes)])
    start = starter(config, model, rotation_model)
    strategies = {}
    for name in config.strategies:
        strategy = strategy_of(config, model, name)
        strategies[name] = strategy._replace(query=compiled(strategy.query))
    driver = make_driver(
        model,
        schedule=config.training(),
        capacity=config.rounds * config.budget,
        selects_epoch=config.checkpoint_selection != "last",
        trains_on_validation=config.trains_on_validation,
        correction=rule,
        compiled=compiled,
    )
    return Experiment(
        config, dataset, model, driver, strategies, compiled(start), mesh, rule
    )


def make_model(
    config: Config,
    image_shape: Sequence[int],
    num_classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Model:
    """Makes the classifier that the settings name, or an ensemble of classifiers.

    Args:
        config: settings of the run.
        image_shape: shape of an image, (H, W, channels).
        num_classes: number of classes, C.
        mean: mean of each channel of images / 255.
        std: standard deviation of each channel of images / 255.

    Raises:
        UserError: if the model does not take images of this shape.
    """
    try:
        model = models.MODELS[config.model].make(
            tuple(image_shape),
            num_classes,
            mean=mean,
            std=std,
            conv_dropout=config.conv_dropout,
            dense_dropout=config.dense_dropout,
        )
    except ValueError as error:
        raise UserError(f"--model {config.model}: {error}") from error
    model = model._replace(init=lambda key, init=model.init: _in_precision(init(key)))
    return ensemble(model, config.ensemble) if config.ensemble > 1 else model


def starter(
    config: Config, model: Model, rotation_model: Model
) -> Callable[[jax.Array, Examples], Variables]:
    """Returns a function that computes the variables before the first round.

    Args:
        config: settings of the pretraining.
        model: classifier.
        rotation_model: same model with four classes, to pretrain.

    Returns:
        A function `start(key, pool) -> variables`.
    """

    def start(key: jax.Array, pool: Examples) -> Variables:
        fresh = model.init(key_for(key, "initialization"))
        if config.pretraining == "none":
            return fresh
        pretrained = pretraining.pretrain(
            key_for(key, "pretraining order"),
            rotation_model,
            rotation_model.init(key_for(key, "pretraining initialization")),
            pool,
            schedule=config.rotation_pretraining(),
        )
        return pretraining.transfer(model, pretrained, fresh)

    return start


def strategy_of(config: Config, model: Model, name: str) -> Strategy:
    """Makes a strategy with the settings of a run.

    Args:
        config: settings of the run.
        model: classifier.
        name: name of the strategy.
    """
    settings = Settings(
        taps=tuple(config.taps),
        budget=config.budget,
        num_passes=config.passes,
        num_steps=config.vaal_steps,
        num_copies=config.copies,
        is_trained=config.trains_on_validation,
        trains_on_validation=config.trains_on_validation,
    )
    strategy = make_strategy(STRATEGIES[name], model, settings)
    if config.random_share > 0:
        strategy = with_random_share(strategy, config.random_share)
    return strategy


def _in_precision(variables: Variables) -> Variables:
    """Converts variables to JAX's default float type: 64 bits if they are enabled."""
    return jax.tree.map(
        lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        variables,
    )
