"""The vocabulary that the other modules share: shapes, types, keys, errors.

Shape letters, used in every docstring:

    N  examples in the pool             M  examples in the validation set
    B  queries in one round (budget)    C  classes
    D  length of a Fisher vector        K  rank of a projection
    L  length of a pooled descriptor    T  stochastic passes
    R  rounds                           H, W  height and width of an image
"""

import difflib
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax


class Variables(NamedTuple):
    """Everything that a model needs besides its input.

    Attributes:
        parameters: what is trained and differentiated: the theta of parameter Fisher
            vectors. A nested dict of arrays, by the names of the layers.
        statistics: running means and variances of batch normalisation, in a dict of
            the same kind; empty for a model that has none.
    """

    parameters: Any
    statistics: Any = {}


class UserError(ValueError):
    """Something that the user can mend; its message is one sentence saying how.

    It is one line, whatever the file names and values that it quotes hold.
    """

    def __init__(self, message: str):
        """Takes the sentence, and makes it `printable`."""
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""Text in which what could break a line or drive a terminal is spelled out.

    >>> print(printable("a\nb\x1b[31m größe"))
    a\nb\x1b[31m größe
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Examples(Protocol):
    """A set of N examples: an array [N, ...], or one that is streamed.

    `fkjax.parallel.examples` reads them; all other code only passes them on.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...), such as (N, H, W, channels)."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, indices: Any, /) -> Any:
        """Those at some positions, as a set of the same kind."""
        ...


Tap = Callable[[str, jax.Array], jax.Array]
"""Called by a model as `a = tap("conv1", a)` on each activation `a` of shape
[N, ..., n_l] that may enter a descriptor: it may look at it, and add to it."""


def no_tap(name: str, activation: jax.Array) -> jax.Array:
    """The tap that looks at nothing and changes nothing."""
    del name
    return activation


class Model(NamedTuple):
    """A classifier as pure functions.

    Attributes:
        init: `init(key) -> variables`.
        apply: `apply(variables, images, tap=no_tap) -> logits`, for images of shape
            [N, H, W, channels] in 0..255 and logits of shape [N, C]. No example's
            logits depend on another example.
        taps: the names at which `apply` calls its tap, from input to output.
        head: the parameters' top-level name of the last layer, which a pretrained
            model does not pass on.
        image_shape: (H, W, channels).
        num_classes: C.
        dropout: (tap, share of its values to drop in training) pairs.
        apply_training: `apply_training(variables, images, tap, mask) -> logits,
            statistics`: the pass of a training step, which normalises with the batch
            and moves the running statistics. The mask, of shape [N] bool, says which
            examples count for both. None if that is `apply`.
        member: the model of each member, of an ensemble (`fkjax.models.ensemble`).
        std: by which `apply` divides each channel of images / 255.
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
    model: Model, variables: Variables, image: jax.Array, tap: Tap = no_tap
) -> jax.Array:
    """The log-probabilities log p(y | x, theta) of one example.

    Args:
        model: the classifier.
        variables: its variables; theta are the parameters among them.
        image: x. Shape [H, W, channels].
        tap: what to do at the model's taps, where N is 1.

    Returns:
        Shape [C].
    """
    return jax.nn.log_softmax(model.apply(variables, image[None], tap)[0])


def path_of(path: tuple[Any, ...]) -> str:
    """The name of a leaf in a pytree, such as "conv1/kernel"; seeds are made of it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


class Query(NamedTuple):
    """What an acquisition function asks the oracle to label in one round.

    Attributes:
        indices: positions in the pool, distinct and unlabelled. Shape [B].
        pseudo_labels: the label assumed for each, or -1. Shape [B].
        targets: position in the validation set of the mistake that each answers,
            or -1 if it answers none. Shape [B].
        scores: how strongly each was wanted; NaN where drawn at random. Shape [B].
        is_bad: which pool examples have an embedding or a score that is NaN or
            infinite: then the round is stopped. Shape [N] bool; None if the strategy
            computes none.
        is_bad_validation: the same of the validation examples. Shape [M] bool.
    """

    indices: jax.Array
    pseudo_labels: jax.Array
    targets: jax.Array
    scores: jax.Array
    is_bad: jax.Array | None = None
    is_bad_validation: jax.Array | None = None


class View(NamedTuple):
    """Everything that a round knows; a strategy is given what it declares of it.

    The first three are everybody's. The rest is withheld from a strategy that does
    not name it in `Strategy.sees`.

    Attributes:
        variables: the model's current variables.
        pool: Shape [N, H, W, channels].
        is_unlabeled: which pool examples may be queried. Shape [N] bool.
        validation: Shape [M, H, W, channels].
        validation_labels: the true ones. Shape [M].
        validation_mistakes: which the model gets wrong. Shape [M] bool.
        pool_labels: the hidden labels. Shape [N]. For ablations only.
    """

    variables: Variables
    pool: Examples
    is_unlabeled: jax.Array
    validation: Examples
    validation_labels: jax.Array
    validation_mistakes: jax.Array
    pool_labels: jax.Array


class Strategy(NamedTuple):
    """An acquisition function and what it must see.

    Attributes:
        sees: the fields of `View`, beyond everybody's, that `query` reads.
        query: `query(key, view) -> Query`, pure, with static shapes.
    """

    sees: frozenset[str]
    query: Callable[[jax.Array, View], Query]


def key_for(key: jax.Array, purpose: str, *numbers: int | jax.Array) -> jax.Array:
    """Derives the key of one named purpose from the key of a run.

    The purpose is hashed by CRC-32, so a new purpose never moves an old one's draws.

    >>> run = jax.random.key(0)
    >>> bool((key_for(run, "split") == key_for(run, "split")).all())
    True

    Args:
        key: the parent key.
        purpose: what the randomness is for, such as "split" or "training".
        *numbers: further coordinates, such as the round.

    Returns:
        A key that depends on nothing else.
    """
    key = jax.random.fold_in(key, zlib.crc32(purpose.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def check_name(name: str, known: Iterable[str], kind: str) -> None:
    """Refuses a name that is not known, and offers the nearest that is.

    Raises:
        UserError: with the nearest name, if one is near, and all known ones.
    """
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"There is no {kind} {name!r}: {hint}Known are {', '.join(known)}.")


LogProbs = Callable[..., jax.Array]
"""`log_probs_fn(theta, x)`: log p(y | x, theta) of one example. Shape [C]."""
