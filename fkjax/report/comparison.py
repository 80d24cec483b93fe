"""Run folders put together: what each was told, and what of them may be compared.

Folders with equal settings are one experiment in parts, such as a folder for each seed.
A strategy that comes from two experiments is two strategies, named apart.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError, printable
from fkjax.report.curves import group_records, shared_rounds
from fkjax.runs.past_run import Run, has_stopped, read_run, unfinished
from fkjax.runs.record import Record

# What says where and how often a run ran, not what it did.
_NO_SETTINGS = frozenset(
    "output_dir data_dir data overwrite side_by_side seed seeds strategies preset "
    "versions".split()
)


class Experiment(NamedTuple):
    """Folders with the same settings.

    Attributes:
        name: by which its folders are told from those of other experiments.
        runs: one for each folder; no two have a strategy with the same seed.
    """

    name: str
    runs: list[Run]


class Strategy(NamedTuple):
    """What was played of one strategy with one group of settings.

    Attributes:
        name: of the strategy, with the experiment's where it comes from more than one.
        original: as it is in the records.
        experiment: where it comes from.
        seeds: by seed, the records of the rounds that all seeds have reached, in order;
            at least one.
    """

    name: str
    original: str
    experiment: Experiment
    seeds: dict[int, list[Record]]

    def values(self, key: str) -> list[list[Any]]:
        """One field of the records: a row for each seed, a column for each round."""
        return [[record[key] for record in run] for run in self.seeds.values()]

    @property
    def num_labeled(self) -> list[int]:
        """Labelled examples after each round."""
        return [record["num_labeled"] for record in next(iter(self.seeds.values()))]


class Comparison(NamedTuple):
    """All that is compared.

    Attributes:
        dataset: its name.
        experiments: in order of their first folder.
        strategies: in order of appearance; at least one.
        notes: sentences on what is unfinished, left out or named apart.
    """

    dataset: str
    experiments: list[Experiment]
    strategies: list[Strategy]
    notes: list[str]


def read(
    paths: Iterable[str | os.PathLike[str]], *, seeds: Collection[int] = ()
) -> Comparison:
    """Reads run folders.

    Args:
        paths: the folders, each once.
        seeds: the only ones to look at; all if empty.

    Raises:
        UserError: if a folder is missing, damaged, empty or named twice, or the data
            sets differ.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        if any(path.resolve() == run.folder.path.resolve() for run in runs):
            raise UserError(f"The run folder {path} is named twice: name each once.")
        runs.append(read_run(path))
    if not runs:
        raise UserError(
            "A report needs one run folder or more, but none is named: give the folder "
            "that --output-dir named."
        )
    _check_data(runs)
    notes = [note for run in runs for note in unfinished(run)]
    runs = [_of_seeds(run, seeds) for run in runs]
    if not any(run.records for run in runs):
        raise UserError(
            f"No round of the seeds {' '.join(map(str, sorted(seeds)))} is in these "
            "runs: name others with --seeds, or none to see all."
        )
    experiments = _experiments(runs)
    strategies = _strategies(experiments, notes)
    notes += _named_apart(strategies)
    return Comparison(runs[0].config["dataset"], experiments, strategies, notes)


def differing_settings(experiments: Sequence[Experiment]) -> dict[str, list[Any]]:
    """The settings that all experiments noted and that differ, with each one's value.

    Args:
        experiments: to be compared.
    """
    found = [_settings(e.runs[0].config) for e in experiments]
    names = sorted(set.intersection(*map(set, found)))
    values = {name: [one[name] for one in found] for name in names}
    return {k: v for k, v in values.items() if any(x != v[0] for x in v)}


def _check_data(runs: Sequence[Run]) -> None:
    """Refuses runs on different data: by name, by classes, by what a run noted."""
    for what, of in (
        ("dataset", lambda run: run.config["dataset"]),
        ("number of classes", lambda run: len(run.records[0]["confusion"])),
        ("fingerprint of the data", lambda run: run.config.get("data")),
    ):
        known = [run for run in runs if of(run) is not None]
        for run in known:
            if of(run) != of(known[0]):
                raise UserError(
                    f"Runs are compared on one data set, but the {what} is "
                    f"{of(known[0])} in {known[0].folder.path} and {of(run)} in "
                    f"{run.folder.path}: report each by itself."
                )


def _of_seeds(run: Run, seeds: Collection[int]) -> Run:
    kept = [record for record in run.records if not seeds or record["seed"] in seeds]
    return run._replace(records=kept)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _NO_SETTINGS}


def _is_of(run: Run, runs: Sequence[Run]) -> bool:
    """Whether a run is a further part of the experiment of some runs."""
    mine, theirs = _settings(run.config), _settings(runs[0].config)
    shared = mine.keys() & theirs.keys()  # a flag that is new says nothing of old runs
    is_new = not any(run.tracks & other.tracks for other in runs)
    return is_new and all(mine[key] == theirs[key] for key in shared)


def _experiments(runs: Iterable[Run]) -> list[Experiment]:
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if _is_of(run, group):
                group.append(run)
                break
        else:
            groups.append([run])
    names = _short_names([_place(group) for group in groups])
    if len(set(names)) < len(names):  # their folders are mixed in one
        names = _short_names([group[0].folder.path.resolve() for group in groups])
    return [Experiment(*pair) for pair in zip(names, groups, strict=True)]


def _place(runs: Sequence[Run]) -> Path:
    """The folder itself, or the innermost that holds all of them."""
    return Path(os.path.commonpath([run.folder.path.resolve() for run in runs]))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """As many of the last parts of each path as tell them all apart."""
    longest = max(len(path.parts) for path in paths)
    names = [path.name for path in paths]
    for count in range(2, longest + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(path.parts[-count:]) for path in paths]
    return names


def _strategies(experiments: Iterable[Experiment], notes: list[str]) -> list[Strategy]:
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
            why = ", as its stop rule said" if all(map(has_stopped, ends)) else ""
            used = f"only {len(shared)} round{'s' if len(shared) > 1 else ''}, which "
            used += "all its seeds have, can be used"
            if not shared:
                used = "nothing is used, because its seeds share no round"
            notes.append(
                f"Of {name} {used}: seed {' and '.join(behind)} did not play all "
                f"{most}{why}; --seeds leaves seeds out."
            )
        if shared:
            kept = {s: [seeds[s][r] for r in shared] for s in sorted(seeds)}
            strategies.append(Strategy(name, original, experiment, kept))
    if not strategies:
        raise UserError(
            "These runs have no round that all seeds of a strategy share: name the "
            "seeds to look at with --seeds."
        )
    return strategies


def _named_apart(strategies: Sequence[Strategy]) -> list[str]:
    """Says for which strategies there is more than one experiment, and why."""
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
            f"{', '.join(originals)} of {', '.join(names)} are kept apart, because "
            f"{why}."
        )
    return said


def shown(value: Any) -> str:
    """A setting as it is shown; what is unsaid is a dash."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "–" if value is None else str(value)
