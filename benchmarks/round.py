"""Times training, evaluation, pretraining and one whole round of the MNIST protocol.

`python -m benchmarks.round --device cpu`. PyTorch, if installed, is timed on the same
threads and trains with the same dropout. The round is that of `fkjax run`: mistakes,
descriptors of the pool and the validation set, pseudo-labels, selection, 50 epochs from
the last weights, and evaluation on the test set.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, workload
from benchmarks.harness import Contender
from benchmarks.peers import TorchLeNet
from fkjax.acquisition import fisher_nearest
from fkjax.experiment import oracle
from fkjax.experiment import pool as pools
from fkjax.experiment import rounds as driver
from fkjax.models import lenet
from fkjax.training import evaluation, pretraining
from fkjax.training.fit import Schedule, fit

TAPS = ("conv1", "conv2", "fc1")


def main() -> None:
    parser = harness.options("Training, evaluation, pretraining and a whole round.")
    arguments = workload.add_data_dir(parser).parse_args()
    harness.start(arguments)
    sizes = (100, 200, 100) if arguments.smoke else (1250, 10_000, 2500)
    work = workload.load(arguments, size=200 if arguments.smoke else 46_000)
    training(arguments, work, size=sizes[0])
    evaluating(arguments, work, size=sizes[1])
    rotating(arguments, work, size=sizes[2])
    for num_labeled in (25,) if arguments.smoke else (125, 1250):
        whole_round(arguments, work, num_labeled=num_labeled)


def training(arguments, work: workload.Workload, *, size: int) -> None:
    """Times one epoch of training in batches of 25."""
    schedule = Schedule(epochs=1)
    images, labels = jnp.asarray(work.images[:size]), jnp.asarray(work.labels[:size])
    epoch = jax.jit(
        lambda v, x, y: fit(
            jax.random.key(0), work.model, v, x, y, size, schedule=schedule
        )
    )
    contenders = [Contender("fkjax", lambda: epoch(work.variables, images, labels))]
    torch = harness.torch_or_none()
    if torch:
        peer = TorchLeNet(torch, work.variables)
        x, y = (
            peer.images(work.images[:size]),
            workload.torch_labels(torch, work.labels),
        )
        contenders.append(
            Contender("torch", lambda: peer.train(x, y[:size], batch_size=25) and None)
        )
    harness.race(
        "training epoch, batch 25",
        contenders,
        examples=size,
        repeats=arguments.repeats,
        baseline=contenders[-1].name,
    )


def evaluating(arguments, work: workload.Workload, *, size: int) -> None:
    """Times the predictions of `size` images."""
    images = jnp.asarray(work.images[:size])
    predict = jax.jit(lambda v, x: evaluation.predictions(work.model, v, x))
    contenders = [Contender("fkjax", lambda: predict(work.variables, images))]
    torch = harness.torch_or_none()
    if torch:
        peer = TorchLeNet(torch, work.variables)
        x = peer.images(work.images[:size])
        contenders += [
            Contender("torch", lambda: peer.predict(x, chunk=100) and None),
            Contender(
                "torch chunks of 1000", lambda: peer.predict(x, chunk=1000) and None
            ),
        ]
    harness.race(
        "evaluation",
        contenders,
        examples=size,
        repeats=arguments.repeats,
        baseline="torch" if torch else "fkjax",
    )


def rotating(arguments, work: workload.Workload, *, size: int) -> None:
    """Times one epoch of rotation pretraining in batches of 25 images."""
    schedule = Schedule(epochs=1)
    images = jnp.asarray(work.images[:size])
    contenders = []
    for name, rates in {
        "fkjax": {},
        "fkjax, no dropout": {"conv_dropout": 0.0, "dense_dropout": 0.0},
    }.items():
        model = lenet((28, 28, 1), pretraining.ROTATIONS, **rates)
        variables = model.init(jax.random.key(0))
        epoch = jax.jit(
            lambda v, x, model=model: pretraining.pretrain(
                jax.random.key(0), model, v, x, schedule=schedule
            )
        )
        contenders.append(
            Contender(name, lambda epoch=epoch, v=variables: epoch(v, images))
        )
    torch = harness.torch_or_none()
    if torch:
        peer = TorchLeNet(torch, variables)
        x = peer.images(work.images[:size])

        def rotate_and_train() -> None:
            turned = torch.stack([torch.rot90(x, k, (2, 3)) for k in range(4)], 1)
            labels = torch.arange(4).repeat(size)
            peer.train(turned.flatten(0, 1), labels, batch_size=100)

        contenders.append(Contender("torch", rotate_and_train))
    harness.race(
        "rotation pretraining epoch",
        contenders,
        examples=4 * size,
        repeats=arguments.repeats,
        baseline=contenders[-1].name,
    )


def whole_round(arguments, work: workload.Workload, *, num_labeled: int) -> None:
    """Times the phases of the round that ends with `num_labeled` labels."""
    budget = 25 if arguments.smoke else 125
    parts = (40, 50, 50) if arguments.smoke else (10_000, 25_852, 10_000)
    validation, pool, test = np.split(np.arange(sum(parts)), np.cumsum(parts)[:2])
    validation, pool, test = (
        part % len(work.labels) for part in (validation, pool, test)
    )
    v_images, v_labels, t_images, t_labels = (
        jnp.asarray(values[part])
        for part in (validation, test)
        for values in (work.images, work.labels)
    )
    arrays = driver.Arrays(
        jnp.asarray(work.images[pool]),
        v_images,
        t_images,
        t_images,
        v_labels,
        t_labels,
        t_labels,
    )
    rounds = driver.make_driver(work.model, schedule=Schedule(), capacity=10 * budget)
    strategy = fisher_nearest(work.model, taps=TAPS, budget=budget)
    strategy = strategy._replace(query=jax.jit(strategy.query))
    answers = oracle.array_oracle(work.labels[pool])
    state = driver.RoundState(
        jax.random.key(0), pools.create(len(pool)), work.variables
    )
    earlier = jnp.arange(num_labeled - budget)
    bought = state.pool.label.at[earlier].set(jnp.asarray(work.labels[pool])[earlier])
    state = state._replace(
        pool=pools.PoolState(
            jnp.int32(num_labeled // budget - 1),
            state.pool.queried_at.at[earlier].set(0),
            bought,
        )
    )
    if num_labeled > budget:  # start from weights that were trained on these labels
        state = rounds.update(
            state, arrays, jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32)
        )
    phases: dict[str, float] = {}  # seconds of the last run

    def play() -> None:
        _, record = driver.play_round(
            rounds, strategy, state, arrays, answers, hidden_labels=lambda: v_labels
        )
        phases.update({name: round(s, 3) for name, s in record.seconds.items()})

    harness.race(
        "whole round",
        [Contender("fkjax", play, {"last_phases": phases})],
        examples=sum(parts[:2]),
        repeats=arguments.repeats,
        baseline="fkjax",
        num_labeled=num_labeled,
        data=work.source,
    )


if __name__ == "__main__":
    main()
