"""An experiment: strategies and seeds on biased pools, played round by round."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax import models
from fkjax.acquisition import STRATEGIES, Settings, with_random_share
from fkjax.base import Images, Model, Strategy, UserError, Variables, key_for
from fkjax.data import datasets, splits
from fkjax.experiment import pool as pools
from fkjax.experiment.clock import forget_peak, peak_memory_mb
from fkjax.experiment.config import Config, check_name
from fkjax.experiment.oracle import Oracle, array_oracle, noisy_labels
from fkjax.experiment.progress import Progress
from fkjax.experiment.rounds import (
    Arrays,
    Driver,
    NotFiniteError,
    Record,
    RoundState,
    make_driver,
    play,
    side_by_side,
)
from fkjax.experiment.stopping import STOP_RULES
from fkjax.models.ensemble import ensemble
from fkjax.parallel.devices import device_mesh, on_all_devices, shard
from fkjax.parallel.images import Streamed
from fkjax.runs.journal import Journal
from fkjax.training import evaluation, pretraining


class Experiment(NamedTuple):
    """What all seeds share; everything in it is compiled once.

    Attributes:
        config: what was asked for.
        dataset: its data.
        model: the classifier, or an ensemble of them.
        driver: the parts of a round.
        strategies: by name, their queries compiled.
        start: `start(key, pool_images) -> variables` before the first round.
        mesh: of all devices; None if there is one.
    """

    config: Config
    dataset: datasets.Dataset
    model: Model
    driver: Driver
    strategies: dict[str, Strategy]
    start: Callable[[jax.Array, Images], Variables]
    mesh: jax.sharding.Mesh | None

    def parts(self, seed: int) -> splits.Splits:
        """The pool, validation, tuning and test sets of a seed.

        Raises:
            UserError: if the data cannot supply them.
        """
        config = self.config
        parts = splits.split(
            jax.random.key(seed),
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
                f"--rounds {config.rounds} x --budget {config.budget} asks for "
                f"{wanted} labels, but the pool of {config.dataset} has "
                f"{len(parts.pool.ids)} images: lower either."
            )
        return parts


def prepare(config: Config, dataset: datasets.Dataset) -> Experiment:
    """Wires the parts of an experiment together.

    Args:
        config: what to run, checked by `fkjax.experiment.config.check`.
        dataset: on what.

    Raises:
        UserError: if the configuration and the data do not fit.
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
            f"{config.dataset} are {height} x {width}: use --pretraining none."
        )

    mesh, compiled = None, jax.jit
    if jax.device_count() > 1:
        mesh = device_mesh()
        compiled = functools.partial(on_all_devices, mesh=mesh)
        if config.side_by_side == "yes" and config.seeds > 1:
            raise UserError(
                "--side-by-side yes plays all seeds on one device, but there are "
                f"{mesh.size}, over which each seed is played: leave it out."
            )

    start = starter(config, model, rotation_model)
    strategies = {}
    for name in config.strategies:
        strategy = make_strategy(config, model, name)
        strategies[name] = strategy._replace(query=compiled(strategy.query))
    driver = make_driver(
        model,
        schedule=config.training(),
        capacity=config.rounds * config.budget,
        selects_epoch=config.checkpoint_selection != "last",
        trains_on_validation=config.train_on_validation,
        compiled=compiled,
    )
    return Experiment(config, dataset, model, driver, strategies, compiled(start), mesh)


def make_model(
    config: Config,
    image_shape: Sequence[int],
    num_classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Model:
    """The classifier that is asked for, or an ensemble of them.

    Args:
        config: what was asked for.
        image_shape: (H, W, channels).
        num_classes: C.
        mean: per channel, of images / 255.
        std: per channel, of images / 255.

    Raises:
        UserError: if there is none of that kind for such images.
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
        raise UserError(f"--model {config.model}: {error}.") from error
    model = model._replace(init=lambda key, init=model.init: _in_precision(init(key)))
    return ensemble(model, config.ensemble) if config.ensemble > 1 else model


def starter(
    config: Config, model: Model, rotation_model: Model
) -> Callable[[jax.Array, Images], Variables]:
    """What gives the variables before the first round.

    Args:
        config: says whether the model is pretrained, and how.
        model: the classifier.
        rotation_model: the same for four classes.

    Returns:
        `start(key, pool_images) -> variables`.
    """

    def start(key: jax.Array, pool_images: Images) -> Variables:
        fresh = model.init(key_for(key, "initialization"))
        if config.pretraining == "none":
            return fresh
        pretrained = pretraining.pretrain(
            key_for(key, "pretraining order"),
            rotation_model,
            rotation_model.init(key_for(key, "pretraining initialization")),
            pool_images,
            schedule=config.rotation_pretraining(),
        )
        return pretraining.transfer(model, pretrained, fresh)

    return start


def make_strategy(config: Config, model: Model, name: str) -> Strategy:
    """The strategy of that name, as it is asked for."""
    settings = Settings(
        config.taps,
        config.budget,
        config.passes,
        vaal_steps=config.vaal_steps,
        num_copies=config.copies,
    )
    strategy = STRATEGIES[name](model, settings)
    if config.random_share > 0:
        strategy = with_random_share(strategy, config.random_share)
    return strategy


def _in_precision(variables: Variables) -> Variables:
    """In JAX's own float: 64 bits where they are enabled."""
    return jax.tree.map(
        lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        variables,
    )


def groups(config: Config, dataset: datasets.Dataset) -> list[range]:
    """The seeds that are played side by side.

    Streamed images are large: a batch of each seed at once is for the user to ask for.
    """
    seeds = range(config.seed, config.seed + config.seeds)
    is_together = config.side_by_side == "yes" or (
        config.side_by_side == "auto"
        and jax.default_backend() != "cpu"
        and jax.device_count() == 1
        and not isinstance(dataset.train_images, Streamed)
    )
    if is_together and config.seeds > 1:
        return [seeds]
    return [range(seed, seed + 1) for seed in seeds]


class _World(NamedTuple):
    """What one seed draws before the first round."""

    key: jax.Array
    parts: splits.Splits
    arrays: Arrays
    oracle: Oracle


def _world(experiment: Experiment, seed: int) -> _World:
    config, parts, key = experiment.config, experiment.parts(seed), jax.random.key(seed)
    selection = parts.test if config.checkpoint_selection == "test" else parts.tuning
    images = (parts.pool, parts.validation, selection, parts.test)
    labels = (parts.validation, selection, parts.test)
    answers = noisy_labels(
        key,
        parts.pool.labels,
        num_classes=experiment.model.num_classes,
        rate=config.label_noise,
    )

    def put(images: Images) -> Any:
        if experiment.mesh is not None:
            return shard(images, experiment.mesh)
        return jax.tree.map(jnp.asarray, images)

    return _World(
        key,
        parts,
        Arrays(
            *(put(part.images) for part in images),
            *(jnp.asarray(part.labels) for part in labels),
        ),
        array_oracle(answers),
    )


def play_seeds(
    experiment: Experiment, seeds: range, journal: Journal, progress: Progress
) -> None:
    """Plays all strategies on some seeds, from where the journal ends.

    Args:
        experiment: what to play.
        seeds: one; or several, which are played as one program.
        journal: each round is committed to it before the next begins.
        progress: is told of each.

    Raises:
        UserError: if a file cannot be written, or an image cannot be read.
    """
    config = experiment.config

    def committed(name: str) -> dict[int, list[dict[str, Any]]]:
        return {seed: journal.rounds(name, seed) for seed in seeds}

    unfinished = [
        name
        for name in experiment.strategies
        if not all(_is_over(config, rounds) for rounds in committed(name).values())
    ]
    if not unfinished:
        journal.conclude(seeds)
        return
    worlds = [_world(experiment, seed) for seed in seeds]
    is_together = len(seeds) > 1

    def joined(trees: Sequence[Any]) -> Any:
        if not is_together:
            return trees[0]
        # Of equal shapes: how many images a class keeps does not depend on the seed.
        return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)

    key, arrays = joined([w.key for w in worlds]), joined([w.arrays for w in worlds])
    pool = joined([pools.create(len(w.parts.pool.ids)) for w in worlds])
    hidden = joined([jnp.asarray(w.parts.pool.labels) for w in worlds])
    start, driver = experiment.start, experiment.driver
    if is_together:  # once, so that all strategies share what is compiled
        start, driver = jax.jit(jax.vmap(start)), side_by_side(driver)

    def oracle(indices: np.ndarray) -> np.ndarray:
        if not is_together:
            return worlds[0].oracle(indices)
        answers = [w.oracle(i) for w, i in zip(worlds, indices, strict=True)]
        return np.stack(answers)

    def begin() -> dict[str, Any]:
        forget_peak()
        since = time.perf_counter()
        variables = jax.block_until_ready(start(key, arrays.pool_images))
        _require_finite(variables, config)
        return {
            "variables": variables._asdict(),
            "seconds": (time.perf_counter() - since) / len(seeds),
            "peak_memory_mb": peak_memory_mb(),
        }

    began = journal.start(seeds, begin)
    for seed in seeds:
        progress.advance(f"seed {seed}: pretraining {config.pretraining}")

    for name in unfinished:
        strategy = experiment.strategies[name]
        if is_together:
            strategy = strategy._replace(query=jax.jit(jax.vmap(strategy.query)))
        done = min(
            len(rounds)
            for rounds in committed(name).values()
            if not _is_over(config, rounds)
        )
        number, kept = journal.resume(name, seeds, done)
        state = RoundState(key, pool, _variables(began))
        if kept is not None:
            state = RoundState(key, pools.PoolState(**kept["pool"]), _variables(kept))
        rounds = play(
            driver,
            strategy,
            jax.tree.map(jnp.asarray, state),
            arrays,
            oracle,
            num_rounds=config.rounds - number,
            hidden_labels=lambda: hidden,
        )
        for state, all_played in _named_errors(rounds, name, seeds, worlds, number):
            number += 1
            held_out = _held_out_accuracy(config, driver, state, arrays)
            rows = []
            for i, (seed, world) in enumerate(zip(seeds, worlds, strict=True)):
                earlier = journal.rounds(name, seed)
                if _is_over(config, earlier):  # it stopped, and waits for the others
                    continue
                played = all_played.of_run(i, len(seeds)) if is_together else all_played
                if number == 1:
                    played.seconds["pretraining"] = float(began["seconds"])
                    played.peak_memory_mb["pretraining"] = float(
                        began["peak_memory_mb"]
                    )
                position = {"strategy": name, "seed": seed, "round": number}
                record = {
                    "dataset": config.dataset,
                    **position,
                    **_measures(config, played),
                    "num_labeled": number * config.budget,
                }
                if held_out is not None:
                    record["held_out_accuracy"] = held_out[i]
                    _mark_stop(config, [*earlier, record])
                rows.append((record, {**position, **_queries(played, world.parts)}))
            kept = {
                "pool": state.pool._asdict(),
                "variables": state.variables._asdict(),
            }
            journal.commit(name, seeds, number, kept, rows)
            for record, _ in rows:
                progress.update(
                    strategy=name,
                    seed=record["seed"],
                    round=number,
                    accuracy=record["test_accuracy"],
                )
            if all(_is_over(config, rounds) for rounds in committed(name).values()):
                break
        journal.conclude(seeds, name)
    journal.conclude(seeds)


def _named_errors(
    rounds: Iterator[tuple[RoundState, Record]],
    name: str,
    seeds: range,
    worlds: Sequence[_World],
    number: int,
) -> Iterator[tuple[RoundState, Record]]:
    """The rounds after `number`; what is not finite in one is told by dataset ids."""
    try:
        for played in rounds:
            number += 1
            yield played
    except NotFiniteError as error:
        of_seeds = zip(seeds, worlds, error.positions, strict=True)
        seed, world, positions = next(one for one in of_seeds if len(one[2]))
        ids = getattr(world.parts, error.part).ids[positions]
        shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
        examples = f"{len(ids)} {error.part} image(s) (ids {shown})"
        raise UserError(
            f"{name}, seed {seed}, round {number + 1}: {error.what.format(examples)}; "
            "the rounds before are kept: try a lower --learning-rate, or --precision "
            "float64, in another folder."
        ) from error


def _require_finite(variables: Variables, config: Config) -> None:
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        raise UserError(
            f"--pretraining {config.pretraining} led to NaN or infinity: lower "
            f"--learning-rate, which is {config.learning_rate:g}."
        )


def _variables(kept: dict[str, Any]) -> Variables:
    return Variables(**kept["variables"])


def _is_over(config: Config, rounds: Sequence[dict[str, Any]]) -> bool:
    """Whether these are all the rounds that a strategy and a seed will have."""
    return len(rounds) >= config.rounds or (bool(rounds) and "stop" in rounds[-1])


def _held_out_accuracy(
    config: Config, driver: Driver, state: RoundState, arrays: Arrays
) -> list[float] | None:
    """On the validation set, of each seed, if a stop rule wants to know."""
    if config.stop_when == "budget":
        return None
    is_mistake = np.atleast_2d(driver.mistakes(state.variables, arrays))
    return (1 - is_mistake.mean(axis=1)).tolist()


def _mark_stop(config: Config, rounds: Sequence[dict[str, Any]]) -> None:
    """Notes in the last record that no round follows, if that is so."""
    num_labeled = [r["num_labeled"] for r in rounds]
    accuracy = [r["held_out_accuracy"] for r in rounds]
    if STOP_RULES[config.stop_when](config.stop_rule(), num_labeled, accuracy):
        rounds[-1]["stop"] = config.stop_when


def _measures(config: Config, played: Record) -> dict[str, Any]:
    confusion = played.confusion
    by_class = evaluation.class_accuracy(confusion)
    members = played.member_accuracy.tolist()
    return {
        "checkpoint_selection": config.checkpoint_selection,
        "test_accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(np.nanmean(by_class)),
        "class_accuracy": by_class.tolist(),
        "queried_per_class": np.bincount(
            played.labels, minlength=len(confusion)
        ).tolist(),
        "num_random": int(np.isnan(played.query.scores).sum()),
        "num_mistakes": int(played.num_mistakes),
        "confusion": confusion.tolist(),
        **({"member_accuracy": members} if members else {}),
        "seconds": played.seconds,
        "peak_memory_mb": played.peak_memory_mb,
    }


def _queries(played: Record, parts: splits.Splits) -> dict[str, Any]:
    """Dataset ids in place of positions; -1 stays where there is none."""
    targets = np.asarray(played.query.targets)
    return {
        "ids": parts.pool.ids[np.asarray(played.query.indices)],
        "labels": played.labels,
        "pseudo_labels": np.asarray(played.query.pseudo_labels),
        "target_ids": np.where(targets < 0, -1, parts.validation.ids[targets]),
    }
