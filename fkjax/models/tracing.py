"""The layers that a module calls in a pass, and which of them describe examples."""

import collections
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

from fkjax.base import UserError, Variables
from fkjax.models import marks
from fkjax.models.inputs import Inputs
from fkjax.models.interception import Network, Seen


class Layer(NamedTuple):
    """A submodule that is called in a pass.

    Attributes:
        name: path of the submodule, such as "encoder/conv1". If it is called more than
            once, the number of the call follows, such as "blocks/fc[3]".
        shape: shape of the output of one example, with several axes of features, such
            as the heads of attention, flattened; () if the output is not one array.
        kind: name of the class.
        obstacle: reason why the submodule cannot be tapped; empty if it can be.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    obstacle: str = ""


class Place(NamedTuple):
    """The call of a layer that a tap stands for.

    Attributes:
        path: path of the layer.
        number: number of the call of that layer, from 0.
        is_inside: whether it is called within a transformation, in some call.
    """

    path: str
    number: int
    is_inside: bool


class Trace(NamedTuple):
    """The layers and the number of classes of a module, found by tracing one pass.

    Attributes:
        layers: the layers, in the order in which they return.
        places: place of each layer that can be tapped, by its name.
        weighted: names of the layers with weights.
        around: names of the layers around each of these, the outermost first.
        again: names of the calls of a layer that is called more than once with the same
            weights.
        before_pooling: paths of the layers whose output may go to a max pooling.
        num_classes: number of classes, C.
    """

    layers: list[Layer]
    places: dict[str, Place]
    weighted: list[str]
    around: dict[str, tuple[str, ...]]
    again: set[str]
    before_pooling: set[str]
    num_classes: int


OnOutput = Callable[[str, jax.Array], jax.Array]


def outputs_of(visit: OnOutput) -> Seen:
    """Returns a callback that visits the outputs of layers that can be tapped.

    Args:
        visit: function `visit(path, output) -> output`, called with outputs of shape
            [N, ..., n]: several axes of features are flattened.
    """

    def seen(path: str, layer: Any, output: Any, around: tuple[str, ...]) -> Any:
        del around
        if not _is_tappable(output):
            return output
        return visit(path, _flattened(layer, output)).reshape(output.shape)

    return seen


def _is_tappable(output: Any) -> bool:
    return (
        isinstance(output, jax.Array)
        and output.ndim >= 2
        and jnp.issubdtype(output.dtype, jnp.floating)
    )


def _flattened(layer: Any, output: jax.Array) -> jax.Array:
    """Returns an output with its axes of features as one, such as those of heads."""
    num = min(_num_feature_axes(layer), output.ndim - 1)
    return output.reshape(*output.shape[: output.ndim - num], -1) if num > 1 else output


def _num_feature_axes(layer: Any) -> int:
    """Returns the number of the last axes of an output that are features."""
    if isinstance(layer, flax.linen.DenseGeneral | nnx.LinearGeneral):
        name = "features" if isinstance(layer, flax.linen.Module) else "out_features"
        features = getattr(layer, name)
        return 1 if isinstance(features, int) else max(1, len(features))
    if isinstance(layer, flax.linen.Einsum | nnx.Einsum) and layer.einsum_str:
        inputs, _, out = layer.einsum_str.replace(" ", "").partition("->")
        given = inputs.split(",")[0]
        of_kernel = [letter not in given for letter in out]
        return max(1, (of_kernel[::-1] + [False]).index(False))
    return 1


_WITH_WEIGHTS = (
    flax.linen.Conv,
    flax.linen.ConvTranspose,
    flax.linen.ConvLocal,
    flax.linen.Dense,
    flax.linen.DenseGeneral,
    flax.linen.Einsum,
    flax.linen.Embed,
    flax.linen.RNN,
    flax.linen.Bidirectional,
    nnx.Conv,
    nnx.ConvTranspose,
    nnx.Linear,
    nnx.LinearGeneral,
    nnx.Einsum,
    nnx.Embed,
    nnx.RNN,
    nnx.Bidirectional,
)


_BEFORE_POOLING = (
    flax.linen.Conv,
    flax.linen.ConvTranspose,
    flax.linen.ConvLocal,
    flax.linen.BatchNorm,
    flax.linen.GroupNorm,
    flax.linen.InstanceNorm,
    nnx.Conv,
    nnx.ConvTranspose,
    nnx.BatchNorm,
    nnx.GroupNorm,
    nnx.InstanceNorm,
)


_traces = itertools.count()


class _Output(NamedTuple):
    """What is known of a layer from its output in a trace."""

    kind: str
    is_weighted: bool
    shape: tuple[int, ...]
    is_tappable: bool
    around: tuple[str, ...]
    is_before_pooling: bool


def traced(network: Network, inputs: Inputs, inputs_of: Callable[[Any], Any]) -> Trace:
    """Finds the layers that a network calls, by tracing one pass.

    Raises:
        UserError: if the network cannot be called, or does not return logits.
    """
    num, outputs, purpose = 2, {}, f"trace {next(_traces)}"

    def seen(path: str, layer: Any, output: Any, around: tuple[str, ...]) -> Any:
        is_tappable = _is_tappable(output) and len(output) == num
        shape = _flattened(layer, output).shape if is_tappable else ()
        is_weighted = isinstance(layer, _WITH_WEIGHTS)
        outputs[path] = _Output(
            type(layer).__name__,
            is_weighted,
            shape,
            is_tappable,
            around,
            isinstance(layer, _BEFORE_POOLING),
        )
        if is_tappable:
            return outputs_of(marks.mark)(path, layer, output, around)
        leaves, treedef = jax.tree.flatten(output)
        at = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)][:1]
        for i in at:  # one of the arrays shows when the layer returns
            leaves[i] = marks.mark(path, leaves[i])
        return treedef.unflatten(leaves)

    def run(variables: Variables, batch: Any) -> Any:
        return network.run(variables, inputs_of(batch), seen, purpose)

    batch = inputs.structs(num)
    try:
        closed, logits = jax.make_jaxpr(run, return_shape=True)(
            network.variables, batch
        )
    except Exception as error:  # a module of the user may raise any exception
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"the module cannot be called in inference on a batch of {_shown(batch)} "
            f"({type(error).__name__}: {first}): check the example, the variables, "
            "preprocess and apply_kwargs"
        ) from error
    shape = getattr(logits, "shape", ())
    if len(shape) != 2 or shape[0] != num:
        raise UserError(
            f"the module must return logits of shape [N, C], got shape {shape} for a "
            f"batch of {num} examples"
            if shape
            else "the module must return one array of logits, of shape [N, C], got "
            f"{type(logits).__name__}"
        )
    is_parameter = [
        name == "parameters"
        for name, tree in network.variables._asdict().items()
        for _ in jax.tree.leaves(tree)
    ]
    is_parameter += [False] * (len(closed.jaxpr.invars) - len(is_parameter))
    found = marks.calls(closed.jaxpr, is_parameter)
    return _trace(found, outputs, shape[1])


def _shown(batch: Any) -> str:
    if hasattr(batch, "shape"):
        return f"shape {batch.shape} of {batch.dtype}"
    shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", batch)
    return str(shapes).replace("'", "")


def _trace(
    found: list[marks.Call], outputs: dict[str, _Output], num_classes: int
) -> Trace:
    total = collections.Counter(call.name for call in found)
    inside = {call.name for call in found if call.is_inside}
    obstacles = {call.name: call.obstacle for call in found if call.obstacle}
    layers: dict[str, Layer] = {}
    places: dict[str, Place] = {}
    weighted, around, again = [], {}, set()
    times: collections.Counter[str] = collections.Counter()
    marks.require([call.name for call in found], outputs)
    hidden = "is called in a part of the network that JAX does not show"
    unmarked = [path for path in outputs if path not in total]
    obstacles |= {path: hidden for path in unmarked if outputs[path].is_tappable}
    for call in [*found, *(marks.Call(path, 0) for path in unmarked)]:
        path, output, number = call.name, outputs[call.name], times[call.name]
        times[path] += 1
        obstacle = obstacles.get(path, "")
        if not obstacle and not output.is_tappable:
            obstacle = "does not return one array of floats of shape [N, ..., n]"
        elif not obstacle and call.num_axes != len(output.shape):
            obstacle = "is called within vmap"
        name = f"{path}[{number}]" if total[path] > 1 and not obstacle else path
        layers[name] = Layer(name, output.shape[1:], output.kind, obstacle)
        if not obstacle:
            places[name] = Place(path, number, path in inside)
        if output.is_weighted and name not in weighted:
            weighted.append(name)
            around[name] = output.around
        if total[path] > 1 and not call.is_scanned:
            again.add(name)
    before_pooling = {path for path, x in outputs.items() if x.is_before_pooling}
    return Trace(
        list(layers.values()),
        places,
        weighted,
        around,
        again,
        before_pooling,
        num_classes,
    )


_MOST_TAPS = 3


def found_taps(trace: Trace) -> tuple[str, ...]:
    """Selects taps: the last layer with weights of each spatial size, at most three.

    In place of a layer that cannot be tapped, the smallest module around it is taken.

    Raises:
        UserError: if there is none.
    """
    by_name = {layer.name: layer for layer in trace.layers}
    usable, left_out = [], {}
    for name in trace.weighted[:-1]:
        around = _around(name, trace) if by_name[name].obstacle else name
        if around is None:
            left_out[name] = by_name[name].obstacle
        # A correlation needs at least two values.
        elif by_name[around].shape[-1] > 1 and not _only_scores(name, by_name):
            usable.append(around)
    once = [name for name in usable if name not in trace.again]
    last = {}
    for name in once or usable:
        last.pop(by_name[name].shape[:-1], None)  # so that the key moves to the end
        last[by_name[name].shape[:-1]] = name
    reasons = collections.defaultdict(list)
    for name, obstacle in left_out.items():
        reasons[obstacle].append(name)
    why = "; ".join(
        f"{'each of ' if len(names) > 1 else ''}{', '.join(names[:3])}"
        f"{', ...' if len(names) > 3 else ''} {obstacle}"
        for obstacle, names in reasons.items()
    )
    if not last:
        what = (
            f"no layer with weights before the logits that can be tapped ({why})"
            if why
            else "no layer with weights before the one that computes the logits"
        )
        raise UserError(
            f"the module has {what}: choose taps from {listed(trace)}; Fisher vectors "
            "of parameters need none, so that any of these will do for them"
        )
    if why:
        warnings.warn(
            f"the taps {', '.join(last.values())} leave out layers that cannot be "
            f"tapped: {why}; name others by taps, from {listed(trace)}",
            stacklevel=3,
        )
    return tuple(last.values())[-_MOST_TAPS:]


def _around(name: str, trace: Trace) -> str | None:
    """Returns the smallest module around a layer that can be tapped."""
    for path in reversed(trace.around[name]):
        calls = [tap for tap, place in trace.places.items() if place.path == path]
        if calls:
            return calls[-1]
    return None


def _only_scores(name: str, by_name: dict[str, Layer]) -> bool:
    """Returns whether a layer is the query or the key of an attention."""
    parent, slash, last = name.partition("[")[0].rpartition("/")
    has_value = any(f"{parent}{slash}value" == x.partition("[")[0] for x in by_name)
    return last in ("query", "key") and has_value


def checked_taps(taps: Sequence[str], trace: Trace) -> tuple[str, ...]:
    """Checks that taps are names of layers that can be tapped."""
    by_name = {layer.name: layer for layer in trace.layers}
    if isinstance(taps, str) or not taps or len(set(taps)) != len(taps):
        raise UserError(
            f"taps must be one or more different names of layers, got {taps!r}"
        )
    several = {place.path for name, place in trace.places.items() if name != place.path}
    for name in taps:
        if name not in by_name and name not in several:
            raise UserError(
                f"the module calls no layer {name!r}: choose taps from {listed(trace)}"
            )
        obstacle = "is called more than once in a pass"
        if name not in several:
            obstacle = by_name[name].obstacle
        if obstacle:
            raise UserError(
                f"the layer {name!r} cannot be tapped because it {obstacle}: choose "
                f"taps from {listed(trace)}"
            )
    return tuple(taps)


def listed(trace: Trace) -> str:
    """Lists the layers that can be tapped, for messages."""
    names = (f"{x.name} {x.shape}" for x in trace.layers if not x.obstacle)
    return ", ".join(names) or "none, as no layer of this module can be tapped"


def head_of(trace: Trace) -> str:
    """Returns the last layer with weights; empty if it is part of a submodule."""
    last = trace.weighted[-1] if trace.weighted else ""
    return "" if "/" in last else last
