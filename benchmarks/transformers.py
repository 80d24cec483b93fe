"""Times projected Fisher vectors of Transformers of usual sizes, with random weights.

`python -m benchmarks.transformers --device cpu --repeats 3`: ViT-B/16 at 224 x 224 and
BERT-base at 128 tokens, parameter gradients to K = 512, one batch a call. A batch of 2
takes some 6 GB. PyTorch, if installed, computes `torch.func.vmap(grad)` and the
same count sketch on the same threads. `--only NAME` runs some of the contenders, so
that the peak memory of the process is their own.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Contender
from benchmarks.peers import TorchTransformer
from fkjax.fisher import vectors
from fkjax.sketch import auto, count_sketch, embed, project

BASELINE = "vmap(grad), count sketch"


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a Transformer and of its examples.

    Attributes:
        name: name of the network.
        length: number of positions, with the class token.
        width: number of features.
        depth: number of blocks.
        heads: number of heads of each attention.
        classes: number of classes.
        vocabulary: number of tokens; 0 for images.
        patch: height and width of the patches of images.
    """

    name: str
    length: int = 197
    width: int = 768
    depth: int = 12
    heads: int = 12
    classes: int = 1000
    vocabulary: int = 0
    patch: int = 16


FULL = (
    Shape("ViT-B/16"),
    Shape("BERT-base", length=129, classes=2, vocabulary=30522),
)
SMOKE = (
    Shape("ViT", length=5, width=8, depth=1, heads=2, classes=3, patch=4),
    Shape("BERT", length=6, width=8, depth=1, heads=2, classes=3, vocabulary=20),
)


class Transformer(nn.Module):
    """Blocks of attention and two dense layers, each after a norm; a class token."""

    shape: Shape

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits of images [N, H, W, 3] or of tokens [N, length - 1]."""
        shape, width = self.shape, self.shape.width
        if shape.vocabulary:
            x = nn.Embed(shape.vocabulary, width, name="embed")(x)
        else:
            size = (shape.patch, shape.patch)
            x = nn.Conv(width, size, size, "VALID", name="embed")(x)
            x = x.reshape(len(x), -1, width)
        first = self.param("first", nn.initializers.normal(0.02), (1, 1, width))
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, width)), x], axis=1)
        positions = nn.initializers.normal(0.02)
        x += self.param("positions", positions, (1, shape.length, width))
        for i in range(shape.depth):
            y = nn.LayerNorm(name=f"norm{i}a")(x)
            x += nn.MultiHeadDotProductAttention(shape.heads, name=f"attention{i}")(y)
            y = nn.LayerNorm(name=f"norm{i}b")(x)
            y = nn.gelu(nn.Dense(4 * width, name=f"up{i}")(y))
            x += nn.Dense(width, name=f"down{i}")(y)
        x = nn.LayerNorm(name="norm")(x[:, 0])
        return nn.Dense(shape.classes, name="head")(x)


def examples(shape: Shape, num: int) -> np.ndarray:
    """Returns images of noise, or random tokens."""
    rng = np.random.default_rng(0)
    if shape.vocabulary:
        tokens = rng.integers(0, shape.vocabulary, (num, shape.length - 1))
        return tokens.astype(np.int32)
    side = shape.patch * round((shape.length - 1) ** 0.5)
    return rng.normal(size=(num, side, side, 3)).astype(np.float32)


def parameters(module: Transformer, xs: np.ndarray) -> Any:
    """Returns random weights; the program of `init` would compile for minutes."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), xs)["params"]

    def draw(path: Any, leaf: Any) -> jax.Array:
        noise = 0.02 * rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(noise + (path[-1].key == "scale"))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def main() -> None:
    parser = harness.options("Fisher vectors of Transformers.")
    parser.add_argument("--batch", type=int, default=2, help="number of examples")
    parser.add_argument("--only", nargs="*", default=(), help="names of contenders")
    parser.add_argument("--networks", nargs="*", default=(), help="names of networks")
    arguments = parser.parse_args()
    harness.start(arguments)
    rank = 16 if arguments.smoke else 512
    for shape in SMOKE if arguments.smoke else FULL:
        if not arguments.networks or shape.name in arguments.networks:
            measure(arguments, shape, rank=rank)


def measure(arguments: Any, shape: Shape, *, rank: int) -> None:
    """Times one network; memory is that of the compiled program but its arguments."""
    module, num = Transformer(shape), arguments.batch
    xs, labels = examples(shape, num), jnp.zeros(num, jnp.int32)
    theta = parameters(module, xs)

    def log_probs_fn(theta: Any, x: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(module.apply({"params": theta}, x[None])[0])

    plan = auto(log_probs_fn, theta, xs[0], rank=rank)
    contenders = []
    for name, sketches, is_factored in (
        ("fkjax", plan.sketches, True),
        ("fkjax, count sketch", count_sketch(rank=rank), True),
        (BASELINE, count_sketch(rank=rank), False),
    ):
        if arguments.only and name not in arguments.only:
            continue
        projection = project(sketches)
        state = projection.init(jax.random.key(1), theta)

        def embedded(theta, state, xs, p=projection, is_factored=is_factored):
            if is_factored:
                return embed(log_probs_fn, theta, xs, labels, p, state, batch_size=num)
            found = vectors.fisher_vectors(log_probs_fn, theta, xs, labels)
            found = jax.lax.optimization_barrier(found)
            return jax.vmap(p.apply, (None, 0))(state, found)

        run = jax.jit(embedded).lower(theta, state, xs).compile()
        needed = run.memory_analysis().temp_size_in_bytes
        contenders.append(
            Contender(
                name,
                lambda run=run, s=state: run(theta, s, xs),
                {"memory_mb_per_example": round(needed / num / 2**20, 1)},
            )
        )
    name = "torch.func, count sketch"
    torch = harness.torch_or_none()
    if torch and (not arguments.only or name in arguments.only):
        peer = TorchTransformer(torch, theta, shape.heads)
        x, y = torch.tensor(xs), torch.zeros(num, dtype=torch.int64)
        hashes = peer.hashes(rank)
        contenders.append(
            Contender(name, lambda: [peer.sketches(x, y, hashes, rank)] and None)
        )
    baseline = BASELINE
    if BASELINE not in [contender.name for contender in contenders]:
        baseline = contenders[0].name
    harness.race(
        f"{shape.name}, parameter gradients to K={rank}",
        contenders,
        examples=num,
        repeats=arguments.repeats,
        baseline=baseline,
        batch=num,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(theta)),
        positions=shape.length,
    )


if __name__ == "__main__":
    main()
