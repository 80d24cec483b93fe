"""The folder of a labeling session, and the images and labels that it continues with.

Between two commands, images may be added, moved and removed, and labels corrected. A
session compares what it finds with its manifest, reports each difference by name,
records it, and continues. The records of past rounds are not changed.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.data.decoding import SUFFIXES
from fkjax.data.label_sets import SETS
from fkjax.data.labeled_folder import Listing, list_images, natural
from fkjax.experiment.config import Config
from fkjax.experiment.resuming import open_run, require_same_session
from fkjax.files.opening import checksum
from fkjax.labeling import corrections
from fkjax.labeling.changes import differences, match, require_comparable, sentences
from fkjax.runs import manifest
from fkjax.runs.folder import RunFolder
from fkjax.runs.manifest import Image, Manifest

_FIRST_SUFFIXES = (".jpg", ".jpeg", ".png")
"""The suffixes of images of sessions that began before others were read."""


class Session(NamedTuple):
    """A labeling session.

    Attributes:
        folder: folder of the session, locked.
        listing: names and known labels of the images. Its classes are those of the
            last record, and then those of new labels.
        manifest: images of the session and their changes.
        ids: id of each image that is in its folder, by its path.
        num_classes: number of classes when the session began.
    """

    folder: RunFolder
    listing: Listing
    manifest: Manifest
    ids: dict[str, int]
    num_classes: int

    def handles(self) -> dict[int, str]:
        """Returns a distinct name of each image: its path, if it is in the folder."""
        names = {at: file for file, at in self.ids.items()}
        used = set(self.ids)
        for at, image in sorted(self.manifest.images().items()):
            if at not in names:
                is_used = image.file in used
                name = f"{image.file} (removed image {at})" if is_used else image.file
                names[at] = name
                used.add(name)
        return names

    def aliases(self) -> dict[str, str]:
        """Returns the handle of the image that each file was, if it is certain."""
        names, owners = self.handles(), self.manifest.owners()
        return {f: names[at] for f, (at, *others) in owners.items() if not others}


@contextlib.contextmanager
def open_session(config: Config, *, tell: Callable[[str], None]) -> Iterator[Session]:
    """Begins a session, or continues the one in the output folder, and locks it.

    Args:
        config: settings with `oracle` "file".
        tell: function called with each sentence on what has changed.

    Raises:
        UserError: if the images, the labels or the folder cannot be used, or a
            difference makes past rounds incomparable with those to come.
    """
    assert config.images and config.labels and config.output_dir
    find = functools.partial(
        list_images, config.images, config.labels, follow_links=config.follow_links
    )
    if not RunFolder.holds_run(config.output_dir):
        listing = find(notify=tell)
        with open_run(config, _data(listing)) as folder:
            assert folder is not None
            images = _images(listing, _checksums(listing.folder, listing.names))
            manifest.begin(folder, images)
            ids = {image.file: image.id for image in images}
            began = len(listing.classes)
            yield Session(folder, listing, Manifest(images, []), ids, began)
        return
    folder = RunFolder.open(config.output_dir)
    with folder.locked():
        known = manifest.read(folder)
        changed = known.settings() if known else {}
        settings = require_same_session(folder, config, changed)
        known = known or _manifest_of_before(folder, find)
        yield _continued(config, folder, known, settings, find, tell)


def _continued(
    config: Config,
    folder: RunFolder,
    known: Manifest,
    settings: Mapping[str, tuple[Any, Any]],
    find: Callable[..., Listing],
    tell: Callable[[str], None],
) -> Session:
    assert config.labels
    before, sums, ids = known.images(), dict[str, str](), dict[str, int]()
    labeled = {image.id for image in before.values() if image.label}
    labeled |= corrections.answered(folder, known)

    def former(names: Sequence[str]) -> dict[str, str | None]:
        sums.update(_checksums(Path(config.images or ""), names))
        ids.update(match(before, sums, labeled))
        now = {at: file for file, at in ids.items()}
        owners = known.owners()
        return {f: now.get(at) for f, (at, *others) in owners.items() if not others}

    listing = find(former=former, notify=tell)
    now = {
        (at := ids[image.file]): image._replace(id=at)
        for image in _images(listing, sums)
    }
    require_comparable(before, now, config.labels)
    records = folder.read_records()
    found = [
        *differences(before, now),
        *corrections.of_answers(
            folder, known, records, [*listing.classes, *config.new_classes]
        ),
        *(
            {"change": "setting", "setting": name, "was": was, "value": value}
            for name, (was, value) in settings.items()
        ),
    ]
    after = corrections.num_accepted(folder, known, records)
    found = [{"after_round": after, **change} for change in found]
    began = folder.read_config().get("known_classes", listing.classes)
    changed = Manifest(known.first, [*known.changes, *found])
    listing = _with_classes(
        listing,
        list(records[-1]["classes"] if records else began),
        corrections.labels_of(changed),
    )
    if found:
        corrections.rename_pending(folder, known, changed, after + 1)
        manifest.append(folder, found)
        for sentence in sentences(found, changed.images()):
            tell(sentence)
    return Session(folder, listing, changed, ids, len(began))


def _with_classes(
    listing: Listing, classes: list[str], answers: Sequence[str]
) -> Listing:
    """Numbers labels by the classes of the model, which new classes follow."""
    new = sorted({*listing.classes, *answers} - {*classes}, key=natural)
    every = [*classes, *new]
    numbers = np.array([every.index(name) for name in listing.classes] + [-1], np.int32)
    return listing._replace(classes=every, labels=numbers[listing.labels])


def _data(listing: Listing) -> dict[str, Any]:
    """Returns what config.json says of the images."""
    parts = [listing.pool, listing.validation, listing.train, listing.test]
    data = [listing.names, listing.sizes, *map(np.ndarray.tolist, parts)]
    text = json.dumps([*data, listing.labels.tolist()])
    return {
        "data": hashlib.sha256(text.encode()).hexdigest(),
        "known_classes": listing.classes,
        "num_pool": len(listing.pool),
        "num_validation": len(listing.validation),
    }


def _images(listing: Listing, sums: Mapping[str, str]) -> list[Image]:
    part = {
        int(i): name
        for name, at in zip(
            SETS, (listing.validation, listing.train, listing.test), strict=True
        )
        for i in at
    }
    return [
        Image(
            i,
            file,
            listing.classes[label] if label >= 0 else "",
            part.get(i, ""),
            sums[file],
        )
        for i, (file, label) in enumerate(
            zip(listing.names, listing.labels.tolist(), strict=True)
        )
    ]


def _checksums(folder: Path, names: Sequence[str]) -> dict[str, str]:
    with ThreadPoolExecutor() as threads:
        sums = threads.map(lambda name: checksum(folder / name), names)
        return dict(zip(names, sums, strict=True))


def _manifest_of_before(folder: RunFolder, find: Callable[..., Listing]) -> Manifest:
    """Writes the manifest of a session that began before there were manifests.

    Raises:
        UserError: if the images or labels have changed since.
    """
    was = folder.read_config()
    for suffixes in (SUFFIXES, _FIRST_SUFFIXES):
        with contextlib.suppress(UserError):
            listing = find(suffixes=suffixes)
            if _data(listing)["data"] == was.get("data"):
                sums = _checksums(listing.folder, listing.names)
                manifest.begin(folder, _images(listing, sums))
                return Manifest(_images(listing, sums), [])
    now = _data(find())
    counts = [
        f"; {name} was {was.get(name)} and is now {now[name]}"
        for name in ("num_pool", "num_validation")
        if was.get(name) != now[name]
    ]
    raise UserError(
        f"{folder.path} was written before fkjax listed the images of a session in "
        f"{manifest.IMAGES}, and the images or labels have changed since"
        f"{''.join(counts)}: restore them to resume it, or choose another folder"
    )
