"""Times Fisher vectors of LeNet: pooled descriptors, and projected gradients.

`python -m benchmarks.fisher --device cpu`, beside PyTorch (autograd for the
descriptors, `torch.func.vmap(grad)` with a dense Gaussian projection for the gradients)
on the same threads where it is installed. Beside each projection's speed stands its
error on a trained LeNet: of the cosines between 200 Fisher vectors, and how much of
each one's ten nearest neighbours it keeps.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, workload
from benchmarks.harness import Contender
from benchmarks.peers import TorchLeNet
from fkjax import fisher
from fkjax.embedding import embed
from fkjax.projection import balanced_fold, count_sketch, gaussian, khatri_rao, project
from fkjax.pseudo_label import given

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


def pooled(arguments, work: workload.Workload) -> None:
    """Feature and gradient descriptors z, g of conv1, conv2 and fc1 (L = 80)."""
    images, labels = jnp.asarray(work.images), jnp.asarray(work.labels)

    def descriptors(variables, images, labels):
        def one(image_and_label):
            image, label = image_and_label
            d = fisher.descriptor(work.model, variables, image, given(label), taps=TAPS)
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
    """All parameters' gradients, projected as they are made."""
    num = len(work.labels) // 5
    images, labels = jnp.asarray(work.images[:num]), jnp.asarray(work.labels[:num])
    log_probs_fn, theta = fisher.of_parameters(work.model, work.variables)
    few = min(200, num)
    vectors = jax.jit(lambda v, x, y: fisher.fisher_vectors(log_probs_fn, v, x, y))(
        theta, images[:few], labels[:few]
    )
    exact = np.concatenate(
        [np.asarray(leaf).reshape(few, -1) for leaf in jax.tree.leaves(vectors)], axis=1
    )
    sparse = count_sketch(rank=rank)
    mixed = {
        f"{layer}/{leaf}": sparse for layer in theta for leaf in ("kernel", "bias")
    }
    mixed["fc1/kernel"] = khatri_rao(
        rank=rank
    )  # from its factors, never multiplied out
    contenders = []
    for name, sketches in {
        "fkjax": sparse,
        "fkjax, khatri-rao of fc1": mixed,
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


def quality(exact: np.ndarray, embeddings: np.ndarray) -> dict[str, float]:
    """Error of the cosines, and the share of ten nearest neighbours that is kept."""
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
