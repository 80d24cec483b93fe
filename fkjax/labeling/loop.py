"""Labeling sessions: query, wait for a person's answers, train, and repeat.

A round is committed when its line is in rounds.jsonl (see `fkjax.runs.journal`). Its
request and its answers are written to requests/ and answers.csv before. A session that
was stopped at any time therefore resumes with the same results, and a round whose
checkpoint is damaged is repeated without asking again.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Variables, key_for, seed_key
from fkjax.data.labeled_folder import Listing, OwnImages, load_images, natural
from fkjax.data.reading import plain_errors
from fkjax.experiment import pool as pools
from fkjax.experiment.clock import forget_peak, peak_memory_mb
from fkjax.experiment.config import Config
from fkjax.experiment.driver import RoundState
from fkjax.experiment.progress import Progress
from fkjax.experiment.records import (
    labels_per_class,
    mark_stop,
    queries_of,
)
from fkjax.experiment.setup import strategy_of
from fkjax.labeling.annotator import Desk
from fkjax.labeling.answers import CANNOT_TELL
from fkjax.labeling.label_studio import data_uri, local_url
from fkjax.labeling.learner import Learner
from fkjax.labeling.own_model import copies_among, enlarged, started
from fkjax.labeling.request import Asked, Request
from fkjax.labeling.session import Session
from fkjax.runs.journal import Journal
from fkjax.selection.choose import choose
from fkjax.selection.problem import Problem
from fkjax.training.fit import require_finite

_STATISTICS = "normalization.jsonl"  # of the images when the session began

_URLS = {"local-files": local_url, "embedded": data_uri}


class Outcome(NamedTuple):
    """The state of a labeling session when a command ends.

    Attributes:
        records: records of all committed rounds.
        sentence: sentence on the missing answers, or on why the session has ended.
    """

    records: list[dict[str, Any]]
    sentence: str


def play_labeling(config: Config, session: Session, progress: Progress) -> Outcome:
    """Continues a session until an answer is missing or no round is left.

    Args:
        config: settings with `oracle` "file", checked by
            `fkjax.experiment.checks.check`.
        session: session, whose folder is locked.
        progress: progress bar, to which each image read and each round is reported.

    Raises:
        UserError: if an answer is invalid, a file cannot be read or written, or
            training leads to NaN; answers and committed rounds are kept.
    """
    listing = session.listing
    journal = Journal(session.folder, tell=progress.tell)
    desk = Desk(
        session,
        new_classes=config.new_classes,
        url=_URLS[config.label_studio],
        tell=progress.tell,
    )
    records = journal.records
    if end := _end(config, listing, desk, records):
        return Outcome(records, end)
    asked = desk.request(len(records) + 1)
    if asked is not None:  # answers are checked before images are read, which is slow
        if waiting := desk.ask(asked, listing.classes):
            return Outcome(records, waiting)
    kept = session.folder.read_lines(_STATISTICS)
    own = load_images(
        listing,
        image_size=config.image_size,
        statistics=(kept[0]["mean"], kept[0]["std"]) if kept else None,
        tell=lambda done, total: progress.advance("reading the images"),
    )
    if not kept:
        value = {"mean": own.mean, "std": own.std}
        session.folder.append_lines(_STATISTICS, [value])
    with plain_errors(own.images):
        return _Loop(config, session, own, desk, journal, progress).play()


def _end(
    config: Config, listing: Listing, desk: Desk, records: Sequence[dict[str, Any]]
) -> str | None:
    """Returns a sentence on why no round follows, or None."""
    done = len(records)
    left = {listing.names[i] for i in listing.pool}
    for number in range(1, done + 1):
        left -= desk.taken.get(number, {}).keys()
    if done and "stop" in records[-1]:
        why = f"--stop-when {records[-1]['stop']} has ended the session"
    elif not left:
        why = "the pool is empty"
    elif done >= config.rounds:
        why = f"{done} of --rounds {config.rounds} are done; raise it to continue"
    else:
        return None
    return f"There is nothing to label: {why}."


class _Loop:
    """The rounds that this process runs."""

    def __init__(
        self,
        config: Config,
        session: Session,
        own: OwnImages,
        desk: Desk,
        journal: Journal,
        progress: Progress,
    ):
        self._config, self._listing, self._own = config, session.listing, own
        self._ids = {name: at for at, name in session.handles().items()}
        self._num_classes = session.num_classes
        self._desk, self._journal, self._progress = desk, journal, progress
        (self._name,) = config.strategies
        self._track = journal.track(self._name, range(config.seed, config.seed + 1))
        self._key = seed_key(config.seed)
        self._learner = Learner(config, own, self._key)
        self._arrays = self._learner.arrays
        self._positions = np.concatenate([own.pool, own.train])
        self._names = [own.names[i] for i in self._positions]
        self._at = {name: i for i, name in enumerate(self._names)}
        self._targets = {own.names[i]: j for j, i in enumerate(own.validation)}
        self._copies = None
        if not config.keep_copies:
            self._copies = copies_among(own, self._positions, warn=progress.tell)

    def play(self) -> Outcome:
        number, state, classes = self._resumed()
        records = self._journal.records
        while (end := _end(self._config, self._listing, self._desk, records)) is None:
            asked = self._desk.request(number + 1)
            if asked is None:  # not made yet, or lost
                asked = self._asked(number + 1, state, classes)
                self._desk.keep(asked)
            if waiting := self._desk.ask(asked, classes):
                return Outcome(records, waiting)
            state = self._trained(asked, state, classes)
            number += 1
            records = self._journal.records
            classes = records[-1]["classes"]
        return Outcome(records, end)

    def _resumed(self) -> tuple[int, RoundState, list[str]]:
        """Restores the last committed round with an undamaged state.

        Returns:
            The number of the round, its state, and the classes of the model.
        """
        own = self._own
        pool = pools.create(len(self._names))
        train = jnp.arange(len(own.pool), len(self._names))
        labels = jnp.asarray(own.labels[own.train])
        trains_on_validation = self._config.trains_on_validation
        is_trained = trains_on_validation or len(train) > 0

        def begin() -> dict[str, Any]:
            num_classes = max(self._num_classes, 1 + int(own.labels.max()))
            classes = own.classes[:num_classes]
            model, _ = self._learner.parts(classes)
            self._progress.advance(f"pretraining {self._config.pretraining}")
            forget_peak()
            since = time.perf_counter()
            variables = start = started(own, self._config, model)
            if is_trained:
                state = RoundState(self._key, pool, variables)
                state = self._learner.updated(state, classes, train, labels)
                variables = state.variables
                require_finite(variables, "training on the labels that are known")
            return {
                "variables": jax.block_until_ready(variables)._asdict(),
                **({"start": start._asdict()} if trains_on_validation else {}),
                "seconds": time.perf_counter() - since,
                "peak_memory_mb": peak_memory_mb(),
            }

        self._began = self._journal.start(self._track.seeds, begin)
        number, kept = self._track.resume(len(self._journal.records))
        first = int(is_trained)
        if kept is not None:
            first = int(kept["pool"]["round"]) - number
        variables = Variables(**(kept or self._began)["variables"])
        # The labels are those of now: they may have been corrected since.
        queried_at, known = map(np.array, (pool.queried_at, pool.label))
        for r in range(1, number + 1):
            indices, answers = self._labels(self._desk.taken.get(r, {}), own.classes)
            queried_at[indices], known[indices] = first + r - 1, answers
        queried_at[train], known[train] = 0, labels
        rounds = jnp.int32(first + number)
        pool = pools.PoolState(rounds, *map(jnp.asarray, (queried_at, known)))
        records = self._journal.records
        had = len(records[-1]["classes"]) if records else self._num_classes
        num_classes = max(had, 1 + int(max(own.labels.max(), known.max())))
        if num_classes > had:
            model, _ = self._learner.parts(own.classes[:num_classes])
            fresh = model.init(key_for(self._key, "classes of labels", number))
            variables = enlarged(variables, fresh)
        state = jax.tree.map(jnp.asarray, RoundState(self._key, pool, variables))
        return number, state, own.classes[:num_classes]

    def _labels(
        self, answers: Mapping[str, str], classes: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the positions of the answered images of the pool, and their labels.

        An image that is gone, or is in another set by now, is left out.
        """
        num_pool = len(self._own.pool)
        found = [
            (at, -1 if label == CANNOT_TELL else classes.index(label))
            for file, label in answers.items()
            if (at := self._at.get(file, num_pool)) < num_pool
        ]
        table = np.array(found, np.int32).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _asked(self, number: int, state: RoundState, classes: Sequence[str]) -> Request:
        """Chooses the images to label in a round."""
        self._progress.advance(f"round {number}: query")
        config, own, arrays = self._config, self._own, self._arrays
        model, _ = self._learner.parts(classes)
        if state.held_out is None:  # the session was resumed
            state = self._holding_out(state, classes)
        is_unlabeled = np.asarray(state.pool.is_unlabeled)
        budget = min(config.budget, int(is_unlabeled.sum()))
        strategy = strategy_of(
            dataclasses.replace(config, budget=budget), model, self._name
        )
        selection = choose(
            Problem(
                model=model,
                variables=state.variables,
                taps=config.taps,
                pool=arrays.pool,
                pool_ids=self._names,
                is_unlabeled=is_unlabeled,
                validation=arrays.validation,
                validation_ids=[own.names[i] for i in own.validation],
                validation_labels=own.labels[own.validation],
                classes=classes,
                copies=self._copies,
                labels=np.asarray(state.pool.label),
                held_out=state.held_out,
            ),
            budget=budget,
            strategy=strategy,
            seed=config.seed,
            round=int(state.pool.round),
        )
        if self._copies is not None:
            for note in self._copies.notes(is_unlabeled):
                self._progress.tell(note)
        images = []
        for pick, probabilities in zip(
            selection.picks, selection.probabilities, strict=True
        ):
            guess = pick.pseudo_label or pick.predicted
            images.append(
                Asked(
                    pick.id,
                    guess,
                    float(probabilities[classes.index(guess)]),
                    pick.pseudo_label,
                    pick.answers.id if pick.answers else None,
                    pick.score,
                    pick.reason,
                )
            )
        looks = "validation_mistakes" in strategy.sees
        return Request(number, int(selection.is_mistake.sum()) if looks else -1, images)

    def _trained(
        self, asked: Request, state: RoundState, classes: Sequence[str]
    ) -> RoundState:
        """Trains on the answers of a round, commits it and returns its state."""
        number, answers = asked.round, self._desk.taken[asked.round]
        self._progress.advance(f"round {number}: training")
        known = {*classes, CANNOT_TELL}
        new = sorted({*answers.values()} - known, key=natural)
        classes = [*classes, *new]
        model, _ = self._learner.parts(classes)
        if new:
            fresh = model.init(key_for(self._key, "new classes", number))
            state = state._replace(variables=enlarged(state.variables, fresh))
        indices, labels = self._labels(answers, classes)
        forget_peak()
        since = time.perf_counter()
        state = self._learner.updated(state, classes, indices, labels)
        seconds = {"training": time.perf_counter() - since}
        if number == 1:
            seconds["pretraining"] = float(self._began["seconds"])
        require_finite(
            state.variables,
            f"training in round {number}, whose answers are kept,",
        )
        since = time.perf_counter()
        state = self._holding_out(state, classes)
        if state.held_out is not None:
            seconds["held_out"] = time.perf_counter() - since
        position = {
            "strategy": self._name,
            "seed": self._config.seed,
            "round": number,
        }
        record = {
            "dataset": self._config.dataset,
            **position,
            **self._learner.measures(state, classes),
            "checkpoint_selection": "last",
            "queried_per_class": labels_per_class(labels, len(classes)),
            "num_cannot_tell": int((labels < 0).sum()),
            "num_random": sum(image.score is None for image in asked.images),
            "num_mistakes": asked.num_mistakes,
            "num_labeled": int((state.pool.label >= 0).sum()),
            "classes": classes,
            "seconds": seconds,
            "peak_memory_mb": {"training": peak_memory_mb()},
        }
        if self._config.stop_when != "budget":
            held_out = record["validation_accuracy"]
            mark_stop(self._config, self._journal.records, record, held_out)
        kept = {"pool": state.pool._asdict(), "variables": state.variables._asdict()}
        images = {image.file: image for image in asked.images}
        of_class = {name: i for i, name in enumerate(classes)}
        files = list(answers)
        of_class[CANNOT_TELL] = -1
        queries = queries_of(
            np.arange(len(files)),
            np.array([of_class[label] for label in answers.values()], np.int32),
            [of_class.get(images[file].pseudo_label or "", -1) for file in files],
            [self._targets.get(images[file].answers or "", -1) for file in files],
            pool_ids=np.array([self._ids[file] for file in files], np.int32),
            validation_ids=np.array(
                [self._ids[self._own.names[i]] for i in self._own.validation]
            ),
        )
        self._track.commit(number, kept, [(record, {**position, **queries})])
        return state

    def _holding_out(self, state: RoundState, classes: Sequence[str]) -> RoundState:
        start = Variables(**self._began.get("start", self._began["variables"]))
        return self._learner.holding_out(state, classes, start)
