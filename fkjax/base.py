"""Types, keys and errors that all other modules share.

The docstrings use these letters for shapes:

    N  examples in the pool             M  examples in the validation set
    B  examples in one query (budget)   C  classes
    D  length of a Fisher vector        K  rank of a projection
    L  length of a pooled descriptor    T  stochastic passes
    R  rounds                           H, W  height and width of an image
"""

import difflib
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Variables(NamedTuple):
    """The arrays of a model.

    Attributes:
        parameters: parameters that are trained and differentiated: the theta of
            parameter Fisher vectors. A nested dict of arrays, keyed by layer names.
        statistics: running means and variances of batch normalization, in a nested
            dict of the same kind; empty for a model without any.
    """

    parameters: Any
    statistics: Any = {}


class UserError(ValueError):
    """Raised for a mistake that the user can fix; the message says how.

    The message is one line, even if it quotes file names or values that contain line
    breaks.
    """

    def __init__(self, message: str):
        """Creates the error with a message, which is made `printable`."""
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""Returns the text with its line breaks and control characters escaped.

    >>> print(printable("a\nb\x1b[31m größe"))
    a\nb\x1b[31m größe
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Examples(Protocol):
    """A set of N examples: an array of shape [N, ...], or examples read from disk.

    Only `fkjax.parallel.examples` reads their values.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (N, ...), such as (N, H, W, channels)."""
        ...

    def __len__(self) -> int:
        """Returns the number of examples, N."""
        ...

    def __getitem__(self, indices: Any, /) -> Any:
        """Returns the examples at some positions, as a set of the same kind."""
        ...


Tap = Callable[[str, jax.Array], jax.Array]
"""A function that a model calls on its activations, as `a = tap("conv1", a)`.

The activation has shape [N, ..., n_l]. A tap may record it, and may add to it."""


def no_tap(name: str, activation: jax.Array) -> jax.Array:
    """Returns the activation unchanged: the tap of a plain forward pass."""
    del name
    return activation


class Model(NamedTuple):
    """A classifier as pure functions.

    Attributes:
        init: function `init(key) -> variables`.
        apply: function `apply(variables, images, tap=no_tap) -> logits`, for images of
            shape [N, H, W, channels] in 0..255 and logits of shape [N, C]. The logits
            of an example must not depend on other examples.
        taps: names with which `apply` calls its tap, from input to output.
        head: name of the last layer at the top level of the parameters. Its parameters
            are initialized anew when the others come from a pretrained model.
        image_shape: shape of one image, (H, W, channels).
        num_classes: number of classes, C.
        dropout: (tap, dropout rate) pairs for training.
        apply_training: function `apply_training(variables, images, tap, mask) ->
            logits, statistics`: the forward pass of a training step, which normalizes
            by the statistics of the batch and updates the running statistics. Only
            examples where `mask`, of shape [N] bool, is true count for the statistics.
            None if training uses `apply`.
        member: model of each member of an ensemble (`fkjax.models.ensemble`); None for
            a single model.
        std: standard deviation of each channel, by which `apply` divides images / 255.
    """

    init: Callable[[jax.Array], Variables]
    apply: Callable[..., jax.Array]
    taps: tuple[str, ...]
    head: str
    image_shape: tuple[int, int, int]
    num_classes: int
    dropout: tuple[tuple[str, float], ...] = ()
    apply_training: Callable[..., tuple[jax.Array, Any]] | None = None
    member: "Model | None" = None
    std: tuple[float, ...] = (1.0,)


def log_probs(
    model: Model, variables: Variables, image: Any, tap: Tap = no_tap
) -> jax.Array:
    """Computes the log-probabilities log p(y | x, theta) of one example.

    Args:
        model: the classifier.
        variables: variables of the model; its parameters are theta.
        image: the example x, of shape [H, W, channels]; of a model of
            `fkjax.models.from_module` also in its own form, such as a dict of arrays.
        tap: the tap, called with a batch of one.

    Returns:
        The log-probabilities, in float32 or wider: in bfloat16, the gradients of
        examples that the model is sure of would be noise. Shape [C].
    """
    batch = jax.tree.map(lambda x: x[None], image)
    return jax.nn.log_softmax(widened(model.apply(variables, batch, tap)[0]))


def widened(x: jax.Array) -> jax.Array:
    """Converts an array to float32, unless it is float32 or float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def path_of(path: tuple[Any, ...]) -> str:
    """Returns the name of a leaf in a pytree, such as "conv1/kernel".

    Random keys are derived from these names.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


class PriorCorrection(NamedTuple):
    """A correction of log-probabilities for the class shares of deployment.

    It is applied by `fkjax.label_shift.corrected`.

    Attributes:
        strength: strength of the correction, tau; 0 for none. Shape [].
        temperature: temperature of the probabilities, T. Shape [].
        log_ratio: log pi - log p_L of each class: share in deployment, and share in the
            training set. Shape [C].
    """

    strength: Any
    temperature: Any
    log_ratio: Any


class Query(NamedTuple):
    """The batch of examples that an acquisition function chooses in one round.

    Attributes:
        indices: positions in the pool, distinct and unlabeled. Shape [B].
        pseudo_labels: label assumed for each example, or -1. Shape [B].
        targets: position in the validation set of the mistake for which each example
            was chosen, or -1. Shape [B].
        scores: score by which each example was chosen, larger is better; NaN for
            examples drawn at random. Shape [B].
        is_bad: mask of the pool examples whose embedding or score is NaN or infinite;
            any of them stops the round. Shape [N] bool; None if the strategy computes
            neither.
        is_bad_validation: the same mask for the validation set. Shape [M] bool.
    """

    indices: jax.Array
    pseudo_labels: jax.Array
    targets: jax.Array
    scores: jax.Array
    is_bad: jax.Array | None = None
    is_bad_validation: jax.Array | None = None


class View(NamedTuple):
    """The inputs of a strategy in one round.

    Every strategy may read the first three fields. It may read another one only if
    `Strategy.sees` names it.

    Attributes:
        variables: current variables of the model.
        pool: examples of the pool. Shape [N, H, W, channels].
        is_unlabeled: mask of the pool examples that may be queried. Shape [N] bool.
        validation: examples of the validation set. Shape [M, H, W, channels].
        validation_labels: true labels of the validation set. Shape [M].
        validation_mistakes: mask of the validation examples that the model
            misclassifies, or, if it was trained on them, that models trained without
            them misclassify. Shape [M] bool.
        pool_labels: true labels of the pool, for ablations only. Shape [N].
        labels: labels that the oracle gave; -1 for the other examples. Shape [N]; None
            if they are not known.
        correction: correction of the model's log-probabilities for deployment, which is
            chosen by the labels of the validation set; None for none.
    """

    variables: Variables
    pool: Examples
    is_unlabeled: jax.Array
    validation: Examples
    validation_labels: jax.Array
    validation_mistakes: jax.Array
    pool_labels: jax.Array
    labels: Any = None
    correction: Any = None


class Strategy(NamedTuple):
    """An acquisition function and the inputs that it needs.

    Attributes:
        sees: fields of `View` that `query` reads, besides the first three.
        query: function `query(key, view) -> Query`, pure and with static shapes.
    """

    sees: frozenset[str]
    query: Callable[[jax.Array, View], Query]


def seed_key(seed: int) -> jax.Array:
    """Returns the random key of a run's seed.

    The random number generator is always Threefry, so that the results of a seed do not
    depend on `jax_default_prng_impl`.
    """
    return jax.random.key(seed, impl="threefry2x32")


def key_for(key: jax.Array, purpose: str, *numbers: int | jax.Array) -> jax.Array:
    """Derives the key of one named purpose from the key of a run.

    The purpose is hashed by CRC-32, so adding a purpose does not change the draws of
    the others.

    >>> run = seed_key(0)
    >>> bool((key_for(run, "split") == key_for(run, "split")).all())
    True

    Args:
        key: the parent key.
        purpose: name of the use of the random numbers, such as "split" or "training".
        *numbers: further coordinates, such as the number of the round.

    Returns:
        A key that depends on these arguments only.
    """
    key = jax.random.fold_in(key, zlib.crc32(purpose.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def check_name(name: str, known: Iterable[str], kind: str) -> None:
    """Checks that a name is one of the known ones.

    Args:
        name: the name to check.
        known: the known names.
        kind: noun for the named objects, such as "strategy", for the message.

    Raises:
        UserError: if the name is not known; the message lists the known names, and
            the nearest one first if one is near.
    """
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UserError(
        f"unknown {kind} {name!r}{hint}; expected one of {', '.join(known)}"
    )


LogProbs = Callable[..., jax.Array]
"""A function `log_probs_fn(theta, x)` of one example x that returns its
log-probabilities log p(y | x, theta), of shape [C]."""
