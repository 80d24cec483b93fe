"""The files through which a person is asked for labels and gives them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fkjax.base import UserError
from fkjax.files.folders import make_folder
from fkjax.files.matching import composed
from fkjax.files.opening import exists, read_if_exists
from fkjax.files.spreadsheet import csv_bytes, inert
from fkjax.files.writing import replace_file
from fkjax.labeling import answers, corrections, label_studio, request
from fkjax.labeling.answers import CANNOT_TELL, AnswerFile
from fkjax.labeling.label_studio import Answer
from fkjax.labeling.request import Request
from fkjax.labeling.session import Session

COLUMNS = ("file", "label", "guess", "confidence", "answers", "reason")
_SHOWN = 5


class Desk:
    """A folder with a form to fill in, tasks for Label Studio, and the answers.

    Attributes:
        taken: answers of each completed round. They are written to disk before they are
            used, and are never deleted.
    """

    def __init__(
        self,
        session: Session,
        *,
        new_classes: Sequence[str],
        url: Callable[[Path, str], str],
        tell: Callable[[str], None],
    ):
        """Reads the answers given so far.

        Args:
            session: session, with its folder and images.
            new_classes: classes that are allowed as answers in addition to the known.
            url: function that returns the URL of an image for Label Studio:
                `label_studio.local_url` or `data_uri`.
            tell: function called with sentences that the user should read, but that
                are not errors.

        Raises:
            UserError: if a file is damaged, or the name of a class is not allowed.
        """
        path, listing = session.folder.path, session.listing
        self._path, self._listing, self._url, self._tell = path, listing, url, tell
        self._session, self._handles = session, session.handles()
        self._aliases = {**session.aliases(), **{file: file for file in session.ids}}
        for name in (*listing.classes, *new_classes):
            if what := answers.flaw_of_answer(name):
                raise UserError(f"the class {what}: give it another name")
        self._form = path / "to_label.csv"
        self._export = path / "label_studio" / "export.json"
        self._classes_file = path / "classes.txt"
        if not exists(self._classes_file):
            text = "".join(f"{name}\n" for name in listing.classes)
            replace_file(self._classes_file, text.encode())
        self._more = [*answers.read_classes(self._classes_file), *new_classes]
        accepted = corrections.accepted(session.folder, session.manifest)
        self.taken = {
            number: {self._handles[at]: label for at, label in of_round.items()}
            for number, of_round in accepted.items()
        }

    def request(self, number: int) -> Request | None:
        """Returns the saved request of a round; None if it is missing or damaged."""
        kept = request.read(self._request_file(number))
        ids = self._session.manifest.ids(before_round=number)
        if kept is None or kept.round != number or not set(kept.files) <= ids.keys():
            return None
        handles = {file: self._handles[at] for file, at in ids.items()}
        images = [
            image._replace(
                file=handles[image.file], answers=handles.get(image.answers or "")
            )
            for image in kept.images
        ]
        if number not in self.taken and not self._present([i.file for i in images]):
            return None  # all of its images are gone
        return kept._replace(images=images)

    def _present(self, files: Sequence[str]) -> list[str]:
        """Returns the files that are in the folder of images."""
        return [file for file in files if file in self._session.ids]

    def keep(self, asked: Request) -> None:
        """Saves the request of a round."""
        request.save(self._request_file(asked.round), asked)

    def _request_file(self, number: int) -> Path:
        return self._path / "requests" / f"round-{number}.json"

    def ask(self, asked: Request, classes: Sequence[str]) -> str | None:
        """Writes a request for the person, or accepts its answers if they are complete.

        Args:
            asked: request of a round.
            classes: classes of the model.

        Returns:
            A sentence on the missing answers; None if all answers are in `taken`.

        Raises:
            UserError: if an answer is invalid; then no answer is accepted and no file
                is changed.
        """
        if asked.round in self.taken:
            return None
        more = [composed(name) for name in classes]
        classes = list(
            dict.fromkeys(
                [*classes, *(c for c in self._more if composed(c) not in more)]
            )
        )
        found = self._collected(asked, classes)
        for note in found.notes:
            self._tell(note)
        if missing := self._present(found.missing):
            self._offer(asked, classes)
            return self._waiting(asked, missing)
        ids = {handle: at for at, handle in self._handles.items()}
        taken = self.taken | {asked.round: found.given}
        corrections.save(
            self._session.folder,
            self._session.manifest,
            {
                n: {ids[f]: label for f, label in given.items()}
                for n, given in taken.items()
            },
        )
        self.taken[asked.round] = found.given
        return None

    def _collected(self, asked: Request, classes: Sequence[str]) -> answers.Collected:
        sources = []
        if exists(self._form):
            given, _ = answers.read_form(self._form, self._aliases)
            sources.append(
                AnswerFile(self._form, self._of_now(given), is_history=False)
            )
        if exists(self._export):
            given = label_studio.read_export(self._export, self._aliases)
            sources.append(
                AnswerFile(self._export, self._of_now(given), is_history=True)
            )
        earlier: dict[str, str] = {}
        for number, of_round in self.taken.items():
            if number < asked.round:
                earlier |= of_round
        return answers.collect(
            sources,
            asked.files,
            earlier=earlier,
            classes=classes,
            names=self._listing.names,
        )

    def _of_now(self, given: Sequence[Answer]) -> list[Answer]:
        """Replaces earlier names of images by the present ones."""
        return [a._replace(file=self._aliases.get(a.file, a.file)) for a in given]

    def _offer(self, asked: Request, classes: Sequence[str]) -> None:
        """Writes the form and the tasks, but keeps a form of the same round.

        A form of an earlier round is replaced: `collect` has checked that all its
        answers were accepted.
        """
        listed: set[str] = set()
        if exists(self._form):
            listed = answers.read_form(self._form, self._aliases)[1]
            listed = {self._aliases.get(file, file) for file in listed}
        files = self._present(asked.files)
        images = [image for image in asked.images if image.file in files]
        if not listed & set(files):
            rows: list[Sequence[Any]] = [COLUMNS]
            for image in images:
                texts = [image.answers or "", image.reason]
                certainty = f"{image.confidence:.2f}"
                guess = inert(image.guess)
                rows.append(
                    [inert(image.file), "", guess, certainty, *map(inert, texts)]
                )
            replace_file(self._form, csv_bytes(rows))
        folder = self._export.parent
        make_folder(folder)
        urls = [self._url(self._listing.folder, file) for file in files]
        tasks = label_studio.tasks(images, urls, round=asked.round)
        _replace_other(folder / "tasks.json", tasks)
        interface = label_studio.interface([*classes, CANNOT_TELL])
        _replace_other(folder / "config.xml", interface)

    def _waiting(self, asked: Request, missing: Sequence[str]) -> str:
        total, num_missing = len(self._present(asked.files)), len(missing)
        more = ", ..." if num_missing > _SHOWN else ""
        shown = ", ".join(missing[:_SHOWN]) + more
        what = f"{num_missing} of {total}" if num_missing < total else str(total)
        return (
            f"Round {asked.round} waits for {what} answers ({shown}): write the class "
            "of each image, or ? if you cannot tell, in the column label of "
            f"{self._form}, or save the export of Label Studio as {self._export}; then "
            "repeat the command."
        )


def _replace_other(path: Path, data: bytes) -> None:
    """Writes a file unless it has this content already."""
    if read_if_exists(path) != data:
        replace_file(path, data)
