"""Times one query of each strategy: `python -m benchmarks.cost --device cpu`.

By default, the sizes are those of the MNIST experiment, with 125 labeled images and a
model trained on them. `passes` is the number of images in forward passes of the
network. A gradient descriptor also takes one backward pass. The passes of VAAL are
those of its training and its scores.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, workload
from benchmarks.harness import Contender
from fkjax.acquisition import STRATEGIES, Settings, make_strategy
from fkjax.acquisition.access import restrict
from fkjax.base import View
from fkjax.models.ensemble import ensemble
from fkjax.training import evaluation

DEFAULT = (
    "random",
    "margin",
    "feature_match",
    "fisher_argmax",
    "fisher_nearest",
    "fisher_nearest_joint",
    "vaal",
    "variation_ratio",
    "variation_ratio E4",
)
MC_DROPOUT = ("variation_ratio", "entropy", "bald", "mean_std")
BASELINE = "variation_ratio"


def main() -> None:
    parser = workload.add_data_dir(harness.options("The cost of one query."))
    parser.add_argument("--pool-size", type=int, default=25_852)
    parser.add_argument("--validation-size", type=int, default=10_000)
    parser.add_argument("--strategies", nargs="+", default=list(DEFAULT))
    parser.add_argument(
        "--passes", type=int, default=128, help="number of passes, and of copies"
    )
    arguments = parser.parse_args()
    harness.start(arguments)
    if arguments.smoke:
        arguments.pool_size, arguments.validation_size, arguments.passes = 300, 60, 8
        arguments.strategies = ["random", "fisher_nearest"]
    queries(arguments)


def queries(arguments) -> None:
    """Times one query of each strategy in turn, on the same pool and model."""
    num_pool, num_validation = arguments.pool_size, arguments.validation_size
    work = workload.load(arguments, size=num_pool + num_validation, epochs=1)
    rows = np.arange(num_pool + num_validation) % len(work.labels)
    pool, validation = rows[:num_pool], rows[num_pool:]
    images, labels = jnp.asarray(work.images), jnp.asarray(work.labels)
    known, known_labels = images[validation], labels[validation]
    predicted = evaluation.predictions(work.model, work.variables, known)
    settings = Settings(
        taps=("conv1", "conv2", "fc1"),
        budget=min(125, num_pool // 4),
        num_passes=arguments.passes,
        num_copies=arguments.passes,
    )
    view = View(
        variables=work.variables,
        pool=images[pool],
        is_unlabeled=jnp.arange(num_pool) >= settings.budget,
        validation=known,
        validation_labels=known_labels,
        validation_mistakes=predicted != known_labels,
        pool_labels=jnp.zeros(0, jnp.int32),
    )
    names = [BASELINE, *(n for n in arguments.strategies if n != BASELINE)]
    contenders = [contender(name, work, view, settings) for name in names]
    harness.race(
        f"one query, pool of {num_pool:,}",
        [c._replace(name=f"fkjax {c.name}") for c in contenders],
        examples=num_pool,
        repeats=arguments.repeats,
        baseline=f"fkjax {BASELINE}",
        data=work.source,
        num_validation=num_validation,
        num_mistakes=int(view.validation_mistakes.sum()),
    )


def contender(
    name: str, work: workload.Workload, view: View, settings: Settings
) -> Contender:
    """Returns the contender of a strategy, such as "entropy", or "entropy E4".

    E4 is an ensemble of four models.
    """
    plain, _, members = name.partition(" E")
    model, size = work.model, int(members or 1)
    if size > 1:
        model = ensemble(model, size)
        settings = dataclasses.replace(settings, num_passes=settings.num_passes // size)
        stacked = jax.tree.map(lambda x: jnp.stack([x] * size), view.variables)
        view = view._replace(variables=stacked)
    strategy = make_strategy(STRATEGIES[plain], model, settings)
    query = jax.jit(strategy.query)
    seen = restrict(view, strategy, hidden_labels=lambda: jnp.zeros(0))
    return Contender(
        name,
        lambda: query(jax.random.key(0), seen),
        {"passes": passes(plain, view, settings, size)},
    )


def passes(name: str, view: View, settings: Settings, size: int) -> int:
    """Returns the number of images in forward passes of one query."""
    num_pool, num_validation = len(view.pool), len(view.validation)
    if name == "random":
        return 0
    if name in MC_DROPOUT:
        return num_pool * settings.num_passes * size
    if name in ("margin", "least_confidence"):
        return num_pool
    if name == "vaal":  # two batches of 64 in each step, through encoder and decoder
        return num_pool + settings.num_steps * 128
    if name in ("fisher_covariance", "fisher_information"):
        return num_pool * (1 + settings.num_copies) + num_validation
    return num_pool + num_validation


if __name__ == "__main__":
    main()
