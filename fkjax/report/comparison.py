"""Run folders grouped into experiments and strategies that can be compared.

Folders with equal settings are parts of one experiment, such as one folder per seed.
A strategy that occurs in two experiments counts as two strategies with different names.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError, printable
from fkjax.report.curves import group_records, shared_rounds
from fkjax.runs.past_run import (
    Run,
    has_stopped,
    read_run,
    unfinished,
    with_protocol,
)
from fkjax.runs.record import Record

# Settings that may differ between the folders of one experiment.
_NO_SETTINGS = frozenset(
    "output_dir data_dir data overwrite side_by_side seed seeds strategies preset "
    "versions".split()
)


class ComparedExperiment(NamedTuple):
    """Folders with the same settings.

    Attributes:
        name: shortest end of the folder's path that differs from other experiments.
        runs: one run per folder; no two contain the same strategy with the same seed.
    """

    name: str
    runs: list[Run]


class ComparedStrategy(NamedTuple):
    """The records of one strategy in one experiment.

    Attributes:
        name: name of the strategy, followed by the experiment's name if the strategy
            occurs in several.
        original: name of the strategy in the records.
        experiment: experiment that the records come from.
        seeds: records of each seed, of one or more, in order of the rounds; only the
            rounds that all seeds have reached.
    """

    name: str
    original: str
    experiment: ComparedExperiment
    seeds: dict[int, list[Record]]

    def values(self, key: str) -> list[list[Any]]:
        """Returns a field of the records: a row for each seed, a column per round."""
        return [[record[key] for record in run] for run in self.seeds.values()]

    @property
    def num_labeled(self) -> list[int]:
        """The number of labeled examples after each round."""
        return [record["num_labeled"] for record in next(iter(self.seeds.values()))]


class Comparison(NamedTuple):
    """The strategies of one or more run folders on one dataset.

    Attributes:
        dataset: name of the dataset.
        experiments: experiments in the order of their first folder.
        strategies: strategies in order of appearance; at least one.
        notes: sentences on what is unfinished, left out or kept apart.
    """

    dataset: str
    experiments: list[ComparedExperiment]
    strategies: list[ComparedStrategy]
    notes: list[str]

    def last_records(self) -> dict[str, list[Record]]:
        """Returns the last records of the seeds of each strategy, by its name."""
        return {s.name: [run[-1] for run in s.seeds.values()] for s in self.strategies}


def read(
    paths: Iterable[str | os.PathLike[str]], *, seeds: Collection[int] = ()
) -> Comparison:
    """Reads run folders.

    Args:
        paths: run folders, each given once.
        seeds: seeds to use; all if empty.

    Raises:
        UserError: if a folder is missing, damaged, empty or given twice, or the
            datasets differ.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        if any(path.resolve() == run.folder.path.resolve() for run in runs):
            raise UserError(f"the run folder {path} is given twice: give each once")
        runs.append(read_run(path))
    if not runs:
        raise UserError(
            "a report needs one or more run folders, got none: give the folder passed "
            "as --output-dir to `fkjax run`"
        )
    _check_data(runs)
    notes = [note for run in runs for note in unfinished(run)]
    runs = [_of_seeds(run, seeds) for run in runs]
    if not any(run.records for run in runs):
        raise UserError(
            f"these runs have no round of the seeds {' '.join(map(str, sorted(seeds)))}"
            ": give others with --seeds, or leave it out to use all"
        )
    experiments = _experiments(runs)
    strategies = _strategies(experiments, notes)
    notes += _named_apart(strategies)
    return Comparison(runs[0].config["dataset"], experiments, strategies, notes)


def differing_settings(
    experiments: Sequence[ComparedExperiment],
) -> dict[str, list[Any]]:
    """Returns the settings that all experiments recorded and that differ.

    Args:
        experiments: experiments to compare.

    Returns:
        For each such setting, its value in each experiment.
    """
    found = [_settings(e.runs[0].config) for e in experiments]
    names = sorted(set.intersection(*map(set, found)))
    values = {name: [one[name] for one in found] for name in names}
    return {k: v for k, v in values.items() if any(x != v[0] for x in v)}


def _check_data(runs: Sequence[Run]) -> None:
    """Raises an error if runs differ in dataset, number of classes or fingerprint."""
    for what, of in (
        ("dataset", lambda run: run.config["dataset"]),
        ("number of classes", lambda run: len(run.records[0]["confusion"])),
        ("fingerprint of the data", lambda run: run.config.get("data")),
    ):
        known = [run for run in runs if of(run) is not None]
        for run in known:
            if of(run) != of(known[0]):
                raise UserError(
                    f"runs can only be compared on one dataset, but the {what} is "
                    f"{of(known[0])} in {known[0].folder.path} and {of(run)} in "
                    f"{run.folder.path}: report each separately"
                )


def _of_seeds(run: Run, seeds: Collection[int]) -> Run:
    kept = [record for record in run.records if not seeds or record["seed"] in seeds]
    return run._replace(records=kept)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    config = with_protocol(config)
    return {key: value for key, value in config.items() if key not in _NO_SETTINGS}


def _is_of(run: Run, runs: Sequence[Run]) -> bool:
    """Returns whether a run is another part of the experiment that `runs` belong to."""
    mine, theirs = _settings(run.config), _settings(runs[0].config)
    shared = mine.keys() & theirs.keys()  # older runs lack newer settings
    is_new = not any(run.tracks & other.tracks for other in runs)
    return is_new and all(mine[key] == theirs[key] for key in shared)


def _experiments(runs: Iterable[Run]) -> list[ComparedExperiment]:
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if _is_of(run, group):
                group.append(run)
                break
        else:
            groups.append([run])
    names = _short_names([_place(group) for group in groups])
    if len(set(names)) < len(names):  # folders of two experiments share one parent
        names = _short_names([group[0].folder.path.resolve() for group in groups])
    return [ComparedExperiment(*pair) for pair in zip(names, groups, strict=True)]


def _place(runs: Sequence[Run]) -> Path:
    """Returns the innermost folder that is or contains all the run folders."""
    return Path(os.path.commonpath([run.folder.path.resolve() for run in runs]))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of the paths that are all different."""
    longest = max(len(path.parts) for path in paths)
    names = [path.name for path in paths]
    for count in range(2, longest + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(path.parts[-count:]) for path in paths]
    return names


def _strategies(
    experiments: Iterable[ComparedExperiment], notes: list[str]
) -> list[ComparedStrategy]:
    found = [
        (original, seeds, experiment)
        for experiment in experiments
        for original, seeds in group_records(
            record for run in experiment.runs for record in run.records
        ).items()
    ]
    originals = [original for original, _, _ in found]
    strategies = []
    for original, seeds, experiment in found:
        is_twice = originals.count(original) > 1
        name = printable(f"{original} ({experiment.name})" if is_twice else original)
        shared = shared_rounds(seeds)
        most = max(len(run) for run in seeds.values())
        if len(shared) < most:
            behind = [str(s) for s, run in sorted(seeds.items()) if len(run) < most]
            ends = [run[max(run)] for run in seeds.values() if len(run) < most]
            why = " because of the stop rule" if all(map(has_stopped, ends)) else ""
            used = f"only the {len(shared)} round{'s' if len(shared) > 1 else ''} that "
            used += "all seeds have reached are used"
            if len(shared) == 1:
                used = "only the one round that all seeds have reached is used"
            if not shared:
                used = "nothing is used, because its seeds share no round"
            lag = "seed {} has" if len(behind) == 1 else "seeds {} have"
            lag = lag.format(" and ".join(behind))
            notes.append(
                f"{name}: {used}; {lag} fewer than {most} rounds{why}. Use --seeds to "
                "leave out seeds."
            )
        if shared:
            kept = {s: [seeds[s][r] for r in shared] for s in sorted(seeds)}
            strategies.append(ComparedStrategy(name, original, experiment, kept))
    if not strategies:
        raise UserError(
            "these runs have no round that all seeds of a strategy share: choose the "
            "seeds to use with --seeds"
        )
    return strategies


def _named_apart(strategies: Sequence[ComparedStrategy]) -> list[str]:
    """Returns notes on the strategies that occur in several experiments, and why."""
    notes: dict[tuple[str, ...], list[str]] = {}
    places = {s.experiment.name: s.experiment for s in strategies}
    for original in dict.fromkeys(s.original for s in strategies):
        mine = [s.experiment.name for s in strategies if s.original == original]
        if len(mine) > 1:
            notes.setdefault(tuple(mine), []).append(original)
    said = []
    for names, originals in notes.items():
        settings = differing_settings([places[name] for name in names])
        how = "; ".join(
            f"{key}: {', '.join(shown(value) for value in values)}"
            for key, values in settings.items()
        )
        why = f"their settings differ ({how})"
        if not settings:
            why = "they repeat seeds with the same settings"
        said.append(
            f"{', '.join(originals)}: results of {', '.join(names)} are kept apart "
            f"because {why}."
        )
    return said


def shown(value: Any) -> str:
    """Formats a setting for display; a missing one becomes a dash."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "–" if value is None else str(value)
