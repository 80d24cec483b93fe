"""Problems made from a network, which is run on the examples."""

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from fkjax.base import Examples, Model, UserError, Variables
from fkjax.data.columns import Tell
from fkjax.models import Adapted, as_images, from_module
from fkjax.models.lacking import with_lacking_classes
from fkjax.models.saved import require_no_nan
from fkjax.selection.lacking import read_labels
from fkjax.selection.probabilities import are_probabilities, are_within
from fkjax.selection.problem import Problem, make_problem
from fkjax.selection.stored import Stored, common_dtypes, stored

_AT_ONCE = 1 << 20  # numbers in the examples of a batch
_EXAMINED = 32  # validation examples whose outputs are examined


def problem_of_network(
    pool: Any,
    validation: Any,
    network: Any,
    variables: Any = None,
    *,
    taps: Sequence[str] | None = None,
    labeled: Iterable[Any] = (),
    classes: Sequence[Any] | None = None,
    keep_copies: bool = False,
    tell: Tell | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> Problem:
    """Makes a problem from a network and the examples that it takes.

    Args:
        pool: mapping of arrays, or files as in
            `fkjax.data.column_files.read_columns`, with images [N, ...] as the network
            takes them, of any shape, and optionally ids [N]. The images may be a dict
            of arrays, such as {"tokens": ..., "mask": ...}.
        validation: the same for the validation set, with labels [M].
        network: Flax NNX or Linen module, as in `fkjax.models.from_module`, or
            `fkjax.base.Model`.
        variables: variables of the network, if it does not contain them.
        taps: names of the layers whose activations form the descriptors; if None, they
            are found, or all taps of a `Model` but the last are used.
        labeled: ids of the pool's examples that are already labeled.
        classes: names of the classes, in the order of the logits; then, names of
            classes of the validation set for which the network has no output.
        keep_copies: whether all exact copies can be queried, instead of one of each.
        tell: function called when parts of a large pool have been read.
        warn: function called with a message if exact copies in the validation set have
            different labels.

    Raises:
        UserError: if something is missing or does not fit.
    """
    taps = (taps,) if isinstance(taps, str) else taps
    pool, of_pool = stored(pool, ("images",), "pool")
    validation, of_validation = stored(
        validation, ("images", "labels"), "validation set"
    )
    for part, what in ((pool, "pool"), (validation, "validation set")):
        if not len(part):
            raise UserError(f"the {what} has no example (0 rows): give one or more")
    is_same = of_pool.is_array and of_validation.is_array
    if not is_same and of_pool.form != of_validation.form:
        raise UserError(
            f"the network takes examples of shape {of_validation.form}, as the "
            f"validation set has them, but those of the pool have {of_pool.form}"
        )
    if isinstance(network, Model) and not isinstance(variables, Variables):
        raise UserError(
            "a Model needs its variables, such as those of model.init(key), got "
            f"{type(variables).__name__}"
        )
    if isinstance(network, Model):
        require_no_nan(variables)
    dtypes = common_dtypes(of_pool, of_validation)
    try:
        adapted = _adapted(network, variables, of_validation, dtypes, taps)
    except Exception:  # a module of the user may raise any exception
        floats = [np.dtype(np.float32)]
        if not of_validation.is_array or dtypes in (floats, [np.uint8]):
            raise
        try:  # of a network that takes no integers, such as one of `lax.conv`
            adapted = _adapted(network, variables, of_validation, floats, taps)
        except Exception:  # as above; the first error is raised
            adapted = None
        if adapted is None:
            raise
        dtypes = floats
    network, variables, chosen = adapted
    if not chosen or set(chosen) - set(network.taps):
        raise UserError(
            f"taps must be one or more of {', '.join(network.taps)}, got "
            f"{', '.join(chosen) or 'none'}"
        )
    known = of_validation.images(dtypes, is_small=True)
    images = of_pool.images(dtypes, tell)
    for part, what in ((images, "pool"), (known, "validation set")):
        if part.shape[1:] != network.image_shape:
            raise UserError(
                f"the network takes examples of shape {network.image_shape}, but those "
                f"of the {what} have {part.shape[1:]}"
            )
    outputs = _outputs(network)(variables, known[:_EXAMINED])
    if are_probabilities(np.asarray(outputs)):
        raise UserError(
            "the network returns probabilities, which are 0 or more and add up to 1, "
            "instead of logits: leave out its softmax"
        )
    if are_within(np.asarray(outputs), 0, 1):
        raise UserError(
            "the network returns numbers from 0 to 1, as a sigmoid does, instead of "
            "logits: leave out its sigmoid; if they are logits, subtract 1 in the "
            "network, which changes no probability"
        )
    labels = read_labels(
        np.asarray(validation["labels"][:]), classes, network.num_classes
    )
    return make_problem(
        with_lacking_classes(network, labels.num_lacking),
        variables,
        chosen,
        pool,
        images,
        validation,
        known,
        labeled=labeled,
        labels=labels,
        batch_size=int(np.clip(_AT_ONCE // np.prod(network.image_shape), 32, 1024)),
        keep_copies=keep_copies,
        warn=warn,
    )


@functools.lru_cache(maxsize=8)
def _outputs(model: Model) -> Callable[[Variables, Examples], jax.Array]:
    return jax.jit(lambda variables, images: model.apply(variables, images))


def _adapted(
    network: Any,
    variables: Any,
    examples: Stored,
    dtypes: Sequence[np.dtype],
    taps: Sequence[str] | None,
) -> Adapted:
    """Returns the network as a model that takes examples of these dtypes, with taps."""
    example = examples.rows(np.arange(1), dtypes)
    if not isinstance(network, Model):
        return from_module(network, variables, example=example, taps=taps)
    images = as_images(example)
    if images.shape[1:] == network.image_shape:
        jax.eval_shape(network.apply, variables, images)
    return Adapted(
        network, variables, tuple(network.taps[:-1] if taps is None else taps)
    )
