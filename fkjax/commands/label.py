"""`fkjax label`: rounds in which a person labels the images."""

import hashlib
import json
import os
from typing import Any

import numpy as np
import rich.console

from fkjax.base import UserError, printable
from fkjax.data.labeled_folder import list_images
from fkjax.experiment.config import Config
from fkjax.experiment.progress import Progress
from fkjax.experiment.resuming import open_run
from fkjax.labeling.loop import play_labeling
from fkjax.report import tables


def label(config: Config) -> list[dict[str, Any]]:
    """Asks a person: does what can be done, and says what it waits for."""
    assert config.images and config.labels and config.output_dir  # by `check`
    home, output = map(os.path.realpath, (config.images, config.output_dir))
    if os.path.commonpath([home, output]) == home:
        raise UserError(
            f"--output-dir {config.output_dir} is in --images {config.images}, where "
            "its figures would be taken for images: choose another."
        )
    listing = list_images(config.images, config.labels)
    data = json.dumps(
        [listing.names, listing.sizes, *map(np.ndarray.tolist, listing[3:8])]
    )
    known = {
        "data": hashlib.sha256(data.encode()).hexdigest(),
        "known_classes": listing.classes,
        "num_pool": len(listing.pool),
        "num_validation": len(listing.validation),
    }
    with (
        open_run(config, known) as folder,
        Progress(len(listing.names) + 3) as progress,
    ):
        assert folder is not None
        outcome = play_labeling(config, listing, folder, progress)
    if outcome.records:
        rich.console.Console().print(tables.labeling_table(outcome.records))
    print(printable(outcome.sentence))
    return outcome.records
