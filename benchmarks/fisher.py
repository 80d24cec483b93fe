"""Times Fisher vectors: descriptors of a LeNet, projected gradients of it and ResNets.

`python -m benchmarks.fisher --device cpu`. PyTorch, if installed, is timed on the same
threads: autograd for the descriptors, and `torch.func.vmap(grad)` with a dense Gaussian
projection for the gradients. The error of each projection is measured on a trained
LeNet: that of the cosines between 1,000 Fisher vectors, and the share of the ten
nearest neighbors that is kept.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, per_example_peers, workload
from benchmarks.harness import Contender
from benchmarks.peers import TorchLeNet, TorchResNet10
from fkjax.acquisition.pseudo_label import given
from fkjax.fisher import descriptors as descriptors_module
from fkjax.fisher import vectors as fisher
from fkjax.models import resnet10, resnet18
from fkjax.sketch.embedding import embed
from fkjax.sketch.planner import auto
from fkjax.sketch.projection import project
from fkjax.sketch.unstructured import balanced_fold, count_sketch, gaussian

TAPS = ("conv1", "conv2", "fc1")
CHUNK = 100


def main() -> None:
    parser = harness.options("Per-example Fisher vectors of LeNet.")
    arguments = workload.add_data_dir(parser).parse_args()
    harness.start(arguments)
    size = 200 if arguments.smoke else 10_000
    work = workload.load(arguments, size=size, epochs=1 if arguments.smoke else 20)
    pooled(arguments, work)
    projected(arguments, work, rank=64 if arguments.smoke else 512)
    residual(arguments, "ResNet-10", resnet10)
    if not arguments.smoke:
        residual(arguments, "ResNet-18", resnet18)


def pooled(arguments, work: workload.Workload) -> None:
    """Times the descriptors z and g of conv1, conv2 and fc1 (L = 80)."""
    images, labels = jnp.asarray(work.images), jnp.asarray(work.labels)

    def descriptors(variables, images, labels):
        def one(image_and_label):
            image, label = image_and_label
            d = descriptors_module.descriptor(
                work.model, variables, image, given(label), taps=TAPS
            )
            return d.z, d.g

        return jax.lax.map(one, (images, labels), batch_size=CHUNK)

    run = jax.jit(descriptors)
    contenders = [Contender("fkjax", lambda: run(work.variables, images, labels))]
    torch = harness.torch_or_none()
    if torch:
        peer = TorchLeNet(torch, work.variables)
        x, y = peer.images(work.images), workload.torch_labels(torch, work.labels)
        contenders.append(
            Contender("torch", lambda: peer.pooled_descriptors(x, y, chunk=CHUNK) and 0)
        )
    harness.race(
        "pooled z and g, L=80",
        contenders,
        examples=len(work.labels),
        repeats=arguments.repeats,
        baseline=contenders[-1].name,
        chunk=CHUNK,
        data=work.source,
    )


def projected(arguments, work: workload.Workload, *, rank: int) -> None:
    """Times gradients of all parameters that are projected as they are computed."""
    num = len(work.labels) // 5
    images, labels = jnp.asarray(work.images[:num]), jnp.asarray(work.labels[:num])
    log_probs_fn, theta = fisher.of_parameters(work.model, work.variables)
    few = min(1000, num)
    vectors = jax.jit(lambda v, x, y: fisher.fisher_vectors(log_probs_fn, v, x, y))(
        theta, images[:few], labels[:few]
    )
    exact = np.concatenate(
        [np.asarray(leaf).reshape(few, -1) for leaf in jax.tree.leaves(vectors)], axis=1
    )
    plan = auto(log_probs_fn, theta, images[0], rank=rank)
    contenders = []
    for name, sketches in {
        "fkjax": plan.sketches,
        "fkjax, count sketch": count_sketch(rank=rank),
        "fkjax, balanced fold": balanced_fold(rank=rank),
        "fkjax, dense gaussian": gaussian(rank=rank),
    }.items():
        projection = project(sketches)
        state = projection.init(jax.random.key(0), theta)
        run = jax.jit(
            lambda v, s, x, y, p=projection: embed(log_probs_fn, v, x, y, p, s)
        )
        embeddings = run(theta, state, images[:few], labels[:few])
        contenders.append(
            Contender(
                name,
                lambda run=run, s=state: run(theta, s, images, labels),
                quality(exact, np.asarray(embeddings)),
            )
        )
    contenders += [
        Contender(p.name, p.run, quality(exact, p.project(few)) if p.project else {})
        for p in per_example_peers.contenders(
            work, images, labels, rank=rank, chunk=CHUNK
        )
    ]
    torch = harness.torch_or_none()
    if torch:
        peer = TorchLeNet(torch, work.variables)
        x, y = peer.images(work.images[:num]), workload.torch_labels(torch, work.labels)
        dense = torch.randn(exact.shape[1], rank) / rank**0.5
        contenders.append(
            Contender(
                "torch.func, dense",
                lambda: peer.projected_gradients(x, y[:num], dense, chunk=CHUNK) and 0,
                quality(exact, exact @ np.asarray(dense)),
            )
        )
    harness.race(
        f"parameter gradients to K={rank}",
        contenders,
        examples=num,
        repeats=arguments.repeats,
        baseline=contenders[-1].name,
        data=work.source,
    )


def residual(arguments, name: str, make) -> None:
    """Times residual networks at 32 x 32, on images of noise.

    Each batch is one call, and `memory_mb_per_example` is the memory that its compiled
    program needs besides its arguments. `vmap(grad)` keeps the gradients of a batch.
    """
    batch, width, rank = (2, 4, 16) if arguments.smoke else (16, 64, 512)
    num_batches = 1 if arguments.smoke else 4
    model = make((32, 32, 3), 10, width=width, mean=(0.5,) * 3, std=(0.25,) * 3)
    variables = model.init(jax.random.key(0))
    log_probs_fn, theta = fisher.of_parameters(model, variables)
    images = jax.random.randint(
        jax.random.key(1), (num_batches, batch, 32, 32, 3), 0, 256, jnp.uint8
    )
    labels = jnp.zeros(batch, jnp.int32)
    plan = auto(log_probs_fn, theta, images[0, 0], rank=rank)
    contenders = []
    for way, sketches, is_factored in (
        ("fkjax", plan.sketches, True),
        ("fkjax, count sketch", count_sketch(rank=rank), True),
        ("vmap(grad), count sketch", count_sketch(rank=rank), False),
    ):
        projection = project(sketches)
        state = projection.init(jax.random.key(0), theta)

        def embedded(theta, state, x, y, p=projection, is_factored=is_factored):
            if is_factored:
                return embed(log_probs_fn, theta, x, y, p, state, batch_size=batch)
            vectors = fisher.fisher_vectors(log_probs_fn, theta, x, y)
            vectors = jax.lax.optimization_barrier(vectors)
            return jax.vmap(p.apply, (None, 0))(state, vectors)

        run = jax.jit(embedded).lower(theta, state, images[0], labels).compile()
        needed = run.memory_analysis().temp_size_in_bytes
        contenders.append(
            Contender(
                way,
                lambda run=run, s=state: [run(theta, s, x, labels) for x in images],
                {"memory_mb_per_example": round(needed / batch / 2**20, 2)},
            )
        )
    torch = harness.torch_or_none()
    if torch and make is resnet10:
        peer = TorchResNet10(torch, variables)
        x = torch.tensor(np.asarray(images)).permute(0, 1, 4, 2, 3).float()
        x, y = (x / 255 - 0.5) / 0.25, torch.zeros(batch, dtype=torch.int64)
        hashes = peer.hashes(rank)
        contenders.append(
            Contender(
                "torch.func, count sketch",
                lambda: [peer.sketches(xs, y, hashes, rank) for xs in x] and None,
            )
        )
    harness.race(
        f"{name}, parameter gradients to K={rank}",
        contenders,
        examples=batch * num_batches,
        repeats=arguments.repeats,
        baseline="vmap(grad), count sketch",
        batch=batch,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(theta)),
    )


def quality(exact: np.ndarray, embeddings: np.ndarray) -> dict[str, float]:
    """Returns the error of cosines and the share of ten nearest neighbors kept."""
    true, found = _cosines(exact), _cosines(embeddings)
    off_diagonal = ~np.eye(len(true), dtype=bool)
    rmse = np.sqrt(np.mean((true - found)[off_diagonal] ** 2))
    nearest = [np.argsort(-c, axis=1)[:, :10] for c in (_alone(true), _alone(found))]
    kept = [len(set(a) & set(b)) / 10 for a, b in zip(*nearest, strict=True)]
    return {
        "cosine_rmse": round(float(rmse), 4),
        "neighbors_kept": round(float(np.mean(kept)), 3),
    }


def _cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return unit @ unit.T


def _alone(cosines: np.ndarray) -> np.ndarray:
    return cosines - 10 * np.eye(len(cosines))


if __name__ == "__main__":
    main()
