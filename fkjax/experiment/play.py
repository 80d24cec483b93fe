"""Running an experiment: strategies and seeds on biased pools, round by round."""

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import (
    Examples,
    PriorCorrection,
    Strategy,
    UserError,
    Variables,
    seed_key,
)
from fkjax.data import datasets, splits
from fkjax.experiment import pool as pools
from fkjax.experiment.clock import forget_peak, peak_memory_mb
from fkjax.experiment.config import Config
from fkjax.experiment.driver import Arrays, RoundState, side_by_side
from fkjax.experiment.held_out import HeldOut
from fkjax.experiment.oracle import Oracle, array_oracle, noisy_labels
from fkjax.experiment.progress import Progress
from fkjax.experiment.records import (
    held_out_accuracy,
    is_over,
    labels_per_class,
    mark_stop,
    measures,
    member_measures,
    protocol_measures,
    queries_of,
)
from fkjax.experiment.rounds import NotFiniteError, RoundResult, first_round, play
from fkjax.experiment.setup import Experiment
from fkjax.parallel.devices import shard
from fkjax.parallel.examples import Streamed
from fkjax.runs.journal import Journal, Track
from fkjax.training.fit import require_finite


def groups(config: Config, dataset: datasets.Dataset) -> list[range]:
    """Returns the groups of seeds that run side by side, as one program.

    With streamed images, which are large, seeds only run side by side on request.

    Args:
        config: settings of the run.
        dataset: dataset of the run.
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
    """The data of one seed, drawn before the first round."""

    key: jax.Array
    parts: splits.Splits
    arrays: Arrays
    oracle: Oracle


def _world(experiment: Experiment, seed: int) -> _World:
    config, parts, key = experiment.config, experiment.parts(seed), seed_key(seed)
    selection = parts.test if config.checkpoint_selection == "test" else parts.tuning
    images = (parts.pool, parts.validation, selection, parts.test)
    labels = (parts.validation, selection, parts.test)
    answers = noisy_labels(
        key,
        parts.pool.labels,
        num_classes=experiment.model.num_classes,
        rate=config.label_noise,
    )

    def put(images: Examples) -> Any:
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
    """Runs all strategies on some seeds, from the last round in the journal.

    Args:
        experiment: parts of the experiment.
        seeds: seeds to run; several run as one program.
        journal: journal to which each round is committed before the next begins.
        progress: progress bar, to which each round is reported.

    Raises:
        UserError: if a file cannot be written, an image cannot be read, or a number is
            NaN or infinite.
    """
    config = experiment.config

    def is_finished(track: Track) -> bool:
        return all(is_over(config, rounds) for rounds in track.rounds().values())

    tracks = [journal.track(name, seeds) for name in experiment.strategies]
    unfinished = [track for track in tracks if not is_finished(track)]
    if not unfinished:
        journal.conclude(seeds)
        return
    worlds = [_world(experiment, seed) for seed in seeds]
    is_together = len(seeds) > 1

    def joined(trees: Sequence[Any]) -> Any:
        if not is_together:
            return trees[0]
        # The shapes are equal: the sizes of the classes do not depend on the seed.
        return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)

    key, arrays = joined([w.key for w in worlds]), joined([w.arrays for w in worlds])
    pool = joined([pools.create(len(w.parts.pool.ids)) for w in worlds])
    hidden = joined([jnp.asarray(w.parts.pool.labels) for w in worlds])
    start, driver = experiment.start, experiment.driver
    if is_together:  # done once, so that all strategies share the compiled program
        start, driver = jax.jit(jax.vmap(start)), side_by_side(driver)

    def oracle(indices: np.ndarray) -> np.ndarray:
        if not is_together:
            return worlds[0].oracle(indices)
        answers = [w.oracle(i) for w, i in zip(worlds, indices, strict=True)]
        return np.stack(answers)

    def begin() -> dict[str, Any]:
        forget_peak()
        since = time.perf_counter()
        variables = jax.block_until_ready(start(key, arrays.pool))
        require_finite(variables, f"--pretraining {config.pretraining}")
        return {
            "variables": variables._asdict(),
            "seconds": (time.perf_counter() - since) / len(seeds),
            "peak_memory_mb": peak_memory_mb(),
        }

    began = journal.start(seeds, begin)
    for seed in seeds:
        progress.advance(f"seed {seed}: pretraining {config.pretraining}")

    start_state = RoundState(key, pool, _variables(began))
    if config.trains_on_validation:
        arrays = arrays._replace(start=start_state.variables)

    @functools.cache
    def round_0() -> tuple[RoundState, RoundResult]:  # the same for all strategies
        state = jax.tree.map(jnp.asarray, start_state)
        return first_round(driver, state, arrays, budget=config.budget)

    def rounds_after(
        number: int, state: RoundState, strategy: Strategy
    ) -> Iterator[tuple[RoundState, RoundResult]]:
        if number < 0:
            number, (state, result) = 0, round_0()
            yield state, result
        yield from play(
            driver,
            strategy,
            jax.tree.map(jnp.asarray, state),
            arrays,
            oracle,
            num_rounds=config.rounds - number,
            hidden_labels=lambda: hidden,
        )

    for track in unfinished:
        name = track.strategy
        strategy = experiment.strategies[name]
        if is_together:
            strategy = strategy._replace(query=jax.jit(jax.vmap(strategy.query)))
        first = config.first_round
        done = min(
            rounds[-1]["round"] if rounds else first - 1
            for rounds in track.rounds().values()
            if not is_over(config, rounds)
        )
        number, kept = track.resume(done, first=first)
        if kept is not None:
            state = _restored(key, kept)
        elif config.trains_on_validation:
            state = start_state
        else:
            state = start_state._replace(held_out=driver.hold_out(start_state, arrays))
        rounds = rounds_after(number, state, strategy)
        for state, all_played in _named_errors(rounds, name, seeds, worlds, number):
            number += 1
            held_out = held_out_accuracy(config, driver, state, arrays)
            rows, committed = [], track.rounds()
            for i, (seed, world) in enumerate(zip(seeds, worlds, strict=True)):
                earlier = committed[seed]
                if is_over(config, earlier):  # stopped earlier than other seeds
                    continue
                played = all_played.of_run(i, len(seeds)) if is_together else all_played
                if number == first:
                    played.seconds["pretraining"] = float(began["seconds"])
                    played.peak_memory_mb["pretraining"] = float(
                        began["peak_memory_mb"]
                    )
                position = {"strategy": name, "seed": seed, "round": number}
                record = {
                    "dataset": config.dataset,
                    **position,
                    "checkpoint_selection": config.checkpoint_selection,
                    **measures(played.confusion),
                    "queried_per_class": labels_per_class(
                        played.labels, len(played.confusion)
                    ),
                    "num_random": int(np.isnan(played.query.scores).sum()),
                    "num_mistakes": int(played.num_mistakes),
                    "confusion": played.confusion.tolist(),
                    **member_measures(played.member_accuracy),
                    **protocol_measures(config, played.uncorrected, played.correction),
                    "seconds": played.seconds,
                    "peak_memory_mb": played.peak_memory_mb,
                    "num_labeled": number * config.budget,
                }
                if held_out is not None:
                    mark_stop(config, earlier, record, held_out[i])
                queries = queries_of(
                    played.query.indices,
                    played.labels,
                    played.query.pseudo_labels,
                    played.query.targets,
                    pool_ids=world.parts.pool.ids,
                    validation_ids=world.parts.validation.ids,
                )
                rows.append((record, {**position, **queries}))
            track.commit(number, _kept(state), rows)
            for record, _ in rows:
                progress.update(
                    strategy=name,
                    seed=record["seed"],
                    round=number,
                    accuracy=record["test_accuracy"],
                )
            if is_finished(track):
                break
        track.conclude()
    journal.conclude(seeds)


def _named_errors(
    rounds: Iterator[tuple[RoundState, RoundResult]],
    name: str,
    seeds: range,
    worlds: Sequence[_World],
    number: int,
) -> Iterator[tuple[RoundState, RoundResult]]:
    """Yields the rounds after `number`; errors give the dataset ids of examples."""
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
            "the earlier rounds are kept: try a lower --learning-rate, or --precision "
            "float64, in another folder"
        ) from error


def _variables(kept: dict[str, Any]) -> Variables:
    return Variables(**kept["variables"])


def _kept(state: RoundState) -> dict[str, Any]:
    """Returns a state as nested dicts of arrays, without its key."""
    kept = {"pool": state.pool._asdict(), "variables": state.variables._asdict()}
    if state.held_out is not None:
        log_probs, correction = state.held_out
        kept["held_out"] = {"log_probs": log_probs, **correction._asdict()}
    return kept


def _restored(key: jax.Array, kept: dict[str, Any]) -> RoundState:
    """Returns the state of `_kept`."""
    held_out = dict(kept.get("held_out", {}))
    return RoundState(
        key,
        pools.PoolState(**kept["pool"]),
        _variables(kept),
        HeldOut(held_out.pop("log_probs"), PriorCorrection(**held_out))
        if held_out
        else None,
    )
