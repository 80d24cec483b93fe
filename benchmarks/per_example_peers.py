"""Per-example gradients by other libraries, for the same LeNet and images.

Each library computes the gradients of log p(label | x) with respect to all 21,840
parameters, in chunks of examples, as in its documentation. TRAK includes a projection
to K numbers; for the others, a dense Gaussian projection follows. jax-privacy does not
return the gradients of single examples, only the sum of clipped gradients.

Images are normalized before the timing. The PyTorch libraries run on CPU, whatever the
device of JAX is. A library that is not installed is left out, with a note on stderr.
"""

import collections
import functools
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks import harness
from benchmarks.peers import TorchLeNet
from benchmarks.workload import Workload, torch_labels


class Peer(NamedTuple):
    """The implementation by one library.

    Attributes:
        name: name of the library and the method.
        run: function that processes all images and returns the arrays to wait for.
        gradients: `gradients(few)`: returns the gradients of the first few images in
            the layout of fkjax's variables, with a leading axis on every leaf; or
            their sum without that axis if the library only returns a sum.
        project: `project(few)`: returns the result of `run` for the first few images.
            Shape [few, K]. None if the library only returns a sum.
    """

    name: str
    run: Callable[[], Any]
    gradients: Callable[[int], Any]
    project: Callable[[int], np.ndarray] | None


def contenders(
    work: Workload, images: Any, labels: Any, *, rank: int, chunk: int = 100
) -> list[Peer]:
    """Returns the implementations by the installed libraries.

    Args:
        work: workload with the weights of the LeNet.
        images: images in 0..255. Shape [N, 28, 28, 1].
        labels: labels of the images. Shape [N].
        rank: number of columns of the projection, K.
        chunk: number of gradients in memory at a time.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    inputs = (jnp.asarray(images / np.float32(255)) - 0.1307) / 0.3081
    own = (work.variables.parameters, inputs, jnp.asarray(labels))
    peers = [_plain_jax(*own, rank, chunk)]
    if _imports("jax_privacy"):
        peers.append(_jax_privacy(*own, chunk))
    torch = harness.torch_or_none() if _imports("torch") else None
    if torch:
        lenet = TorchLeNet(torch, work.variables)
        x, y = lenet.images(images), torch_labels(torch, labels)
        for package, make in (
            ("opacus", _opacus),
            ("backpack", _backpack),
            ("trak", _trak),
            ("trak", functools.partial(_trak, one_block=True)),
        ):
            if _imports(package):  # each library modifies its module
                module = _torch_module(torch, lenet.parameters)
                way = make(torch, module, rank)
                peers.append(_torch_peer(torch, *way, x, y, chunk))
    return peers


class _LeNet(nn.Module):
    """`fkjax.models.lenet` for one image, written as in the documentation of Flax."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name, channels in {"conv1": 10, "conv2": 20}.items():
            x = nn.Conv(channels, (5, 5), padding="VALID", name=name)(x)
            x = nn.relu(nn.max_pool(x, (2, 2), (2, 2)))
        x = nn.relu(nn.Dense(50, name="fc1")(x.reshape(-1)))
        return nn.log_softmax(nn.Dense(10, name="fc2")(x))


def _log_prob(variables: Any, x: jax.Array, label: jax.Array) -> jax.Array:
    return _LeNet().apply({"params": variables}, x)[label]


def _plain_jax(variables: Any, x: Any, y: Any, rank: int, chunk: int) -> Peer:
    """Returns the implementation by `vmap(grad)` of Flax layers and a product."""
    size = sum(leaf.size for leaf in jax.tree.leaves(variables))
    dense = jax.random.normal(jax.random.key(0), (size, rank)) / rank**0.5

    @jax.jit
    def project_chunk(variables: Any, dense: jax.Array, x: Any, y: Any) -> jax.Array:
        def one(x: jax.Array, y: jax.Array) -> jax.Array:
            return ravel_pytree(jax.grad(_log_prob)(variables, x, y))[0] @ dense

        return jax.vmap(one)(x, y)

    def project(num: int) -> jax.Array:
        # A loop in Python: in a loop of XLA, convolutions have one thread on CPU.
        starts = range(0, num, chunk)
        parts = [(x[i : i + chunk], y[i : i + chunk]) for i in starts]
        return jnp.concatenate(
            [
                project_chunk(variables, dense, *part)[: num - i]
                for i, part in zip(starts, parts, strict=True)
            ]
        )

    gradients = jax.jit(jax.vmap(jax.grad(_log_prob), (None, 0, 0)))
    return Peer(
        "jax vmap(grad), dense",
        lambda: project(len(y)),
        lambda few: gradients(variables, x[:few], y[:few]),
        lambda few: np.asarray(project(few)),
    )


def _jax_privacy(variables: Any, x: Any, y: Any, chunk: int) -> Peer:
    """Returns the implementation by jax-privacy: clipped sum and norms of gradients.

    The size of its chunks must divide N.
    """
    from jax_privacy import clipped_grad

    def clipped_sum(bound: float, num: int) -> Callable[..., Any]:
        return clipped_grad(
            _log_prob,
            l2_clip_norm=bound,
            batch_argnums=(1, 2),
            keep_batch_dim=False,
            return_grad_norms=True,
            microbatch_size=math.gcd(chunk, num),
        )

    run = jax.jit(clipped_sum(1.0, len(y)))
    return Peer(
        "jax-privacy, clipped sum, no projection",
        lambda: run(variables, x, y),
        lambda few: clipped_sum(math.inf, few)(variables, x[:few], y[:few])[0],
        None,
    )


# The implementation by a PyTorch library: its name, `gradients(x, y)` by parameter
# name, and the projection of gradients to K numbers.
_Way = tuple[str, Callable[..., dict[str, Any]], Callable[[dict[str, Any]], Any]]


def _opacus(torch: Any, module: Any, rank: int) -> _Way:
    """Returns the gradients that `GradSampleModule` stores in each parameter."""
    from opacus import GradSampleModule

    model = GradSampleModule(module, loss_reduction="sum")
    loss = torch.nn.CrossEntropyLoss(reduction="sum")

    def gradients(x: Any, y: Any) -> dict[str, Any]:
        model.zero_grad()
        (-loss(model(x), y)).backward()
        return {name: p.grad_sample for name, p in module.named_parameters()}

    return "opacus GradSampleModule, dense", gradients, _dense(torch, rank)


def _backpack(torch: Any, module: Any, rank: int) -> _Way:
    """Returns the gradients that the `BatchGrad` extension stores in each parameter."""
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    model = extend(module)
    loss = extend(torch.nn.CrossEntropyLoss(reduction="sum"))

    def gradients(x: Any, y: Any) -> dict[str, Any]:
        model.zero_grad()
        with backpack(BatchGrad()):
            (-loss(model(x), y)).backward()
        return {name: p.grad_batch for name, p in module.named_parameters()}

    return "backpack BatchGrad, dense", gradients, _dense(torch, rank)


def _trak(torch: Any, module: Any, rank: int, one_block: bool = False) -> _Way:
    """Returns the gradients and the projector of TRAK, as in `TRAKer.featurize`.

    The entries are normal, as TRAKer uses them on CPU. For more than 100 columns, the
    projector draws its matrix again for every chunk, 100 columns at a time, unless
    `one_block` is set, which keeps the whole matrix.
    """
    from trak.gradient_computers import FunctionalGradientComputer
    from trak.modelout_functions import AbstractModelOutput
    from trak.projectors import BasicProjector, ProjectionType

    class LogProb(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model, weights, buffers, image, label) -> Any:
            state = (weights, buffers)
            logits = torch.func.functional_call(model, state, image[None])
            log_p = torch.nn.functional.log_softmax(logits, 1)
            return log_p[0].gather(0, label[None])[0]

        def get_out_to_loss_grad(self, *args: Any) -> Any:
            raise NotImplementedError  # only needed for attribution scores

    size = sum(p.numel() for p in module.parameters())
    computer = FunctionalGradientComputer(module, LogProb(), size, torch.float32, "cpu")
    projector = BasicProjector(
        size,
        rank,
        seed=0,
        proj_type=ProjectionType.normal,
        device="cpu",
        block_size=rank if one_block else 100,
    )

    def gradients(x: Any, y: Any) -> dict[str, Any]:
        with torch.no_grad():  # without a graph of the parameters
            return computer.compute_per_sample_grad(batch=(x, y))

    return (
        "trak BasicProjector" + (", one block" if one_block else ""),
        gradients,
        lambda gradients: projector.project(gradients, model_id=0) / rank**0.5,
    )


def _dense(torch: Any, rank: int) -> Callable[[dict[str, Any]], Any]:
    """Returns the product of concatenated gradients and a Gaussian matrix."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(21_840, rank, generator=generator) / rank**0.5
    return lambda gradients: (
        torch.cat([g.flatten(1) for g in gradients.values()], 1) @ dense
    )


def _torch_peer(
    torch: Any, name: str, gradients: Any, compress: Any, x: Any, y: Any, chunk: int
) -> Peer:
    def project(few: int) -> np.ndarray:
        pairs = zip(x[:few].split(chunk), y[:few].split(chunk), strict=True)
        out = [compress(gradients(xs, ys)) for xs, ys in pairs]
        return torch.cat(out).numpy()

    return Peer(
        name,
        lambda: project(len(y)),
        lambda few: _flax_layout(gradients(x[:few], y[:few])),
        project,
    )


def _torch_module(torch: Any, parameters: dict[str, Any]) -> Any:
    """Returns `TorchLeNet` as a module."""
    layers = torch.nn
    module = layers.Sequential(
        collections.OrderedDict(
            conv1=layers.Conv2d(1, 10, 5),
            pool1=layers.MaxPool2d(2),
            relu1=layers.ReLU(),
            conv2=layers.Conv2d(10, 20, 5),
            pool2=layers.MaxPool2d(2),
            relu2=layers.ReLU(),
            flatten=layers.Flatten(),
            fc1=layers.Linear(320, 50),
            relu3=layers.ReLU(),
            fc2=layers.Linear(50, 10),
        )
    )
    module.load_state_dict(parameters)
    return module


def _flax_layout(gradients: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Inverts the change of layout in `TorchLeNet`, with a leading axis."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for name, gradient in gradients.items():
        layer, kind = name.split(".")
        array = gradient.detach().numpy()
        if kind == "weight":
            array = array.transpose((0, 3, 4, 2, 1) if array.ndim == 5 else (0, 2, 1))
        if name == "fc1.weight":  # its input is (C, H, W) flattened, not (H, W, C)
            array = array.reshape(-1, 20, 4, 4, 50).transpose(0, 2, 3, 1, 4)
            array = array.reshape(-1, 320, 50)
        out.setdefault(layer, {})[{"weight": "kernel"}.get(kind, kind)] = array
    return out


@functools.cache
def _imports(package: str) -> bool:
    try:
        importlib.import_module(package)
    except Exception as error:  # a broken installation may raise any exception
        print(f"left out: {package}: {error}", file=sys.stderr)
        return False
    return True
