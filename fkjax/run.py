"""`python -m fkjax.run`: strategies compared on a biased pool, from the command line.

Parses, wires the parts together, loops over seeds, strategies and rounds, and records
each round before the next begins.
"""

import dataclasses
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from fkjax import datasets, evaluation, figures, models, pretraining, splits, tables
from fkjax import pool as pools
from fkjax.acquisition import STRATEGIES, Settings, with_random_share
from fkjax.base import Model, Strategy, UserError, Variables, key_for
from fkjax.config import Config, check, check_name, parse
from fkjax.driver import (
    Arrays,
    Driver,
    Record,
    RoundState,
    make_driver,
    play,
    side_by_side,
)
from fkjax.ensemble import ensemble
from fkjax.images import Streamed
from fkjax.oracle import Oracle, array_oracle, noisy_labels
from fkjax.progress import Progress
from fkjax.reading import plain_errors
from fkjax.reporting import RunFolder

PACKAGES = ("fkjax", "jax", "jaxlib", "flax", "optax", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Args:
        argv: the arguments, without the program's name; `sys.argv` by default.

    Returns:
        0; 2 after a mistake that the user can mend, told in one sentence; 130 after
        Ctrl-C, with every finished round kept.
    """
    try:
        run(parse(argv))
    except UserError as error:
        print(f"fkjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fkjax: interrupted.", file=sys.stderr)
        return 130
    return 0


def run(config: Config) -> list[dict[str, Any]]:
    """Runs every strategy with every seed.

    Args:
        config: what to run, such as `fkjax.config.defaults("mnist")`.

    Returns:
        The records of all rounds, as they are in rounds.jsonl.

    Raises:
        UserError: if the configuration, the data or the output folder is at fault.
    """
    check(config)
    dataset = datasets.load(
        config.dataset, data_dir=config.data_dir, image_size=config.image_size
    )
    experiment = _prepare(config, dataset)
    experiment.parts(config.seed)  # a pool that cannot be: told before anything is made
    folder = None
    if config.output_dir is not None:
        folder = RunFolder.create(config.output_dir)
        folder.write_config(dataclasses.asdict(config) | {"versions": _versions()})

    records: list[dict[str, Any]] = []
    total = config.seeds * (1 + len(experiment.strategies) * config.rounds)
    try:
        with (
            plain_errors(dataset.train_images, dataset.test_images),
            Progress(total) as progress,
        ):
            for seeds in _groups(config, dataset):
                for record, queries in _play_seeds(experiment, seeds, progress):
                    if folder is not None:
                        folder.append_queries(**queries)
                        folder.append_record(record)
                    records.append(record)
                    progress.update(
                        strategy=record["strategy"],
                        seed=record["seed"],
                        round=record["round"],
                        accuracy=record["test_accuracy"],
                    )
    finally:
        if records:
            _conclude(config, records, folder)
    return records


class _Experiment(NamedTuple):
    """What all seeds share; everything in it is compiled once."""

    config: Config
    dataset: datasets.Dataset
    model: Model
    driver: Driver
    strategies: dict[str, Strategy]
    start: Callable[[jax.Array, jax.Array], Variables]

    def parts(self, seed: int) -> splits.Splits:
        """The pool, validation, tuning and test sets of a seed."""
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


def _prepare(config: Config, dataset: datasets.Dataset) -> _Experiment:
    height, width, channels = dataset.train_images.shape[1:]

    def make(num_classes: int) -> Model:
        try:
            model = models.MODELS[config.model].make(
                (height, width, channels),
                num_classes,
                mean=dataset.mean,
                std=dataset.std,
                conv_dropout=config.conv_dropout,
                dense_dropout=config.dense_dropout,
            )
        except ValueError as error:
            raise UserError(f"--model {config.model}: {error}.") from error
        return ensemble(model, config.ensemble) if config.ensemble > 1 else model

    model, rotation_model = make(dataset.num_classes), make(pretraining.ROTATIONS)
    for tap in config.taps:
        check_name(tap, model.taps, "tap")
    if config.pretraining == "rotation" and height != width:
        raise UserError(
            "--pretraining rotation needs square images, but those of "
            f"{config.dataset} are {height} x {width}: use --pretraining none."
        )

    @jax.jit
    def start(key: jax.Array, pool_images: jax.Array) -> Variables:
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

    settings = Settings(
        config.taps,
        config.budget,
        config.passes,
        vaal_steps=config.vaal_steps,
        num_copies=config.copies,
    )
    strategies = {}
    for name in config.strategies:
        strategy = STRATEGIES[name](model, settings)
        if config.random_share > 0:
            strategy = with_random_share(strategy, config.random_share)
        strategies[name] = strategy._replace(query=jax.jit(strategy.query))
    driver = make_driver(
        model,
        schedule=config.training(),
        capacity=config.rounds * config.budget,
        selects_epoch=config.checkpoint_selection != "last",
        trains_on_validation=config.train_on_validation,
    )
    return _Experiment(config, dataset, model, driver, strategies, start)


class _World(NamedTuple):
    """What one seed draws before the first round."""

    key: jax.Array
    parts: splits.Splits
    arrays: Arrays
    oracle: Oracle


def _world(experiment: _Experiment, seed: int) -> _World:
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
    return _World(
        key,
        parts,
        Arrays(
            *(jax.tree.map(jnp.asarray, part.images) for part in images),
            *(jnp.asarray(part.labels) for part in labels),
        ),
        array_oracle(answers),
    )


def _groups(config: Config, dataset: datasets.Dataset) -> list[range]:
    """The seeds that are played side by side.

    Streamed images are large: a batch of each seed at once is for the user to ask for.
    """
    seeds = range(config.seed, config.seed + config.seeds)
    is_together = config.side_by_side == "yes" or (
        config.side_by_side == "auto"
        and jax.default_backend() != "cpu"
        and not isinstance(dataset.train_images, Streamed)
    )
    if is_together and config.seeds > 1:
        return [seeds]
    return [range(seed, seed + 1) for seed in seeds]


def _play_seeds(
    experiment: _Experiment, seeds: range, progress: Progress
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """All strategies on some seeds: rounds' records, and rows for queries.csv."""
    config = experiment.config
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

    since = time.perf_counter()
    variables = jax.block_until_ready(start(key, arrays.pool_images))
    seconds = (time.perf_counter() - since) / len(seeds)
    for seed in seeds:
        progress.advance(f"seed {seed}: pretraining {config.pretraining}")

    for name, strategy in experiment.strategies.items():
        if is_together:
            strategy = strategy._replace(query=jax.jit(jax.vmap(strategy.query)))
        rounds = play(
            driver,
            strategy,
            RoundState(key, pool, variables),
            arrays,
            oracle,
            num_rounds=config.rounds,
            hidden_labels=lambda: hidden,
        )
        for number, all_played in enumerate(rounds, start=1):
            for i, (seed, world) in enumerate(zip(seeds, worlds, strict=True)):
                played = all_played.of_run(i, len(seeds)) if is_together else all_played
                if number == 1:
                    played.seconds["pretraining"] = seconds
                position = {"strategy": name, "seed": seed, "round": number}
                record = {
                    "dataset": config.dataset,
                    **position,
                    **_measures(config, played),
                }
                record["num_labeled"] = number * config.budget
                yield record, {**position, **_queries(played, world.parts)}


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


def _conclude(
    config: Config, records: list[dict[str, Any]], folder: RunFolder | None
) -> None:
    rich.console.Console().print(tables.final_table(records))
    if folder is None:
        print("Nothing was written; --output-dir DIR keeps records and figures.")
        return
    bias = f"{config.imbalance.replace('_', ' ')} imbalance {config.imbalance_ratio:g}x"
    title = f"{config.dataset}, {bias}"
    figures.draw_learning_curve(
        records, folder.path / "learning_curve.png", title=title
    )
    figures.draw_confusion(records, folder.path / "confusion.png")
    print(f"Records and figures are in {folder.path}.")


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


if __name__ == "__main__":
    sys.exit(main())
