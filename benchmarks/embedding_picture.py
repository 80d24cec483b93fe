"""Draws embeddings of the test set: `python -m benchmarks.embedding_picture`.

The figure shows a t-SNE of the descriptors z of test images at 500 labels, with the
mistakes marked, for random queries and for `fisher_nearest` (as in Gudovskiy et al.
2020, Fig. 6). The models are trained again, for one seed, since runs do not keep them.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.acquisition import STRATEGIES, Settings, make_strategy
from fkjax.base import Model, Variables, key_for
from fkjax.data import datasets, splits
from fkjax.experiment import pool as pools
from fkjax.experiment.driver import Arrays, RoundState, make_driver
from fkjax.experiment.oracle import array_oracle
from fkjax.experiment.presets import defaults
from fkjax.experiment.rounds import play_round
from fkjax.fisher.descriptors import features
from fkjax.fisher.kernel import pearson_features
from fkjax.models import lenet
from fkjax.parallel.mapping import map_examples
from fkjax.training import evaluation, pretraining

SHOWN = ("random", "fisher_nearest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir")
    parser.add_argument("--results-dir", default="docs/results")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument(
        "--rounds", type=int, default=4, help="number of rounds of 125 labels"
    )
    parser.add_argument(
        "--shown", type=int, default=2500, help="number of test images drawn"
    )
    arguments = parser.parse_args()
    dataset = datasets.load("mnist", data_dir=arguments.data_dir)
    model, trained = train(dataset, arguments.seed, arguments.rounds)
    path = Path(arguments.results_dir) / "mnist-100x-embedding.png"
    draw(path, dataset, model, trained, arguments)
    print(f"wrote {path}")


def train(
    dataset: datasets.Dataset, seed: int, num_rounds: int
) -> tuple[Model, dict[str, Variables]]:
    """Trains the model for some rounds of each strategy, as `fkjax run` does."""
    config, key = defaults(preset="paper-mnist"), jax.random.key(seed)
    parts = splits.split(
        key,
        dataset,
        validation_size=config.validation_size,
        imbalance_ratio=config.imbalance_ratio,
    )
    pool, validation, test = (
        (jnp.asarray(p.images), jnp.asarray(p.labels))
        for p in (parts.pool, parts.validation, parts.test)
    )
    arrays = Arrays(
        *(pool[0], validation[0], test[0], test[0]),
        *(validation[1], test[1], test[1]),
    )
    model, rotation_model = lenet((28, 28, 1), 10), lenet((28, 28, 1), 4)
    pretrained = jax.jit(
        lambda images: pretraining.pretrain(
            key_for(key, "pretraining order"),
            rotation_model,
            rotation_model.init(key_for(key, "pretraining initialization")),
            images,
            schedule=config.rotation_pretraining(),
        )
    )(arrays.pool)
    fresh = model.init(key_for(key, "initialization"))
    start = pretraining.transfer(model, pretrained, fresh)
    driver = make_driver(
        model, schedule=config.training(), capacity=num_rounds * config.budget
    )
    trained = {}
    for name in SHOWN:
        strategy = make_strategy(
            STRATEGIES[name],
            model,
            Settings(budget=config.budget, taps=tuple(config.taps)),
        )
        strategy = strategy._replace(query=jax.jit(strategy.query))
        state = RoundState(key, pools.create(len(parts.pool.ids)), start)
        for _ in range(num_rounds):
            state, _ = play_round(
                driver,
                strategy,
                state,
                arrays,
                array_oracle(parts.pool.labels),
                hidden_labels=lambda: pool[1],
            )
        trained[name] = state.variables
    return model, trained


def draw(
    path: Path,
    dataset: datasets.Dataset,
    model: Model,
    trained: dict[str, Variables],
    arguments: argparse.Namespace,
) -> None:
    """Draws a panel for each strategy, with true classes as colors."""
    import matplotlib
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    taps = defaults("mnist").taps
    chosen = np.arange(len(dataset.test_labels))[: arguments.shown]
    images, labels = jnp.asarray(dataset.test_images[chosen]), dataset.test_labels
    figure = Figure(figsize=(12, 6.4), dpi=130, layout="constrained")
    colors = matplotlib.colormaps["tab10"].colors
    for axes, (name, variables) in zip(
        figure.subplots(1, len(trained)), trained.items(), strict=True
    ):
        z = map_examples(
            lambda image, v=variables: pearson_features(
                features(model, v, image, taps=taps)[1]
            ),
            images,
            batch_size=100,
        )
        wrong = np.asarray(evaluation.predictions(model, variables, images))
        wrong = wrong != labels[chosen]
        place = TSNE(random_state=0, init="pca").fit_transform(np.asarray(z))
        for c in range(dataset.num_classes):
            of_class = labels[chosen] == c
            x, y = place[of_class & ~wrong].T
            axes.scatter(x, y, s=6, color=colors[c], lw=0, label=str(c))
            x, y = place[of_class & wrong].T
            axes.scatter(x, y, s=22, color=colors[c], marker="x", lw=1.1)
        axes.set_title(
            f"{name}: {wrong.sum():,} of {len(chosen):,} wrong (crosses)",
            loc="left",
            fontweight="bold",
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", "datalim")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        *handles,
        loc="outside lower center",
        ncols=10,
        frameon=False,
        markerscale=2.5,
        title="true class; 5 to 9 are rare in the pool",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
