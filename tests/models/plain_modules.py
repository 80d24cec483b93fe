"""Plain Flax modules, and the same modules with calls of a tap."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

LIST = getattr(nnx, "List", list)  # not available in flax 0.11
EXAMPLE = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.uint8)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(nnx.relu(self.norm(self.conv(x))))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.block = NNXBlock(rngs)
        self.conv = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
        self.fc1 = nnx.Linear(96, 5, rngs=rngs)
        self.fc2 = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv(self.block(x)))
        return self.fc2(nnx.relu(self.fc1(x.reshape(len(x), -1))))


class NNXTapped(NNXNet):
    """The same module with calls of a tap, for `from_nnx`."""

    def __init__(self, rngs):
        super().__init__(rngs)
        del self.block.drop

    def __call__(self, x, tap, mask=None):
        block = self.block
        x = tap("block/conv", block.conv(x))
        x = tap("block", nnx.relu(block.norm(x)))
        x = nnx.relu(tap("conv", self.conv(x)))
        x = nnx.relu(tap("fc1", self.fc1(x.reshape(len(x), -1))))
        return tap("fc2", self.fc2(x))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, train, tap=None):
        tap = tap or (lambda name, a: a)
        x = tap("block/conv", nn.Conv(4, (3, 3), name="conv")(x))
        x = nn.relu(nn.BatchNorm(not train, name="norm")(x))
        return tap("block", nn.Dropout(0.5, deterministic=not train)(x))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.relu(
            nn.Conv(6, (3, 3), 2, name="conv")(LinenBlock(name="block")(x, train))
        )
        x = nn.relu(nn.Dense(5, name="fc1")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="fc2")(x)


class LinenTapped(nn.Module):
    @nn.compact
    def __call__(self, x, tap, mask=None):
        x = LinenBlock(name="block")(x, train=False, tap=tap)
        x = nn.relu(tap("conv", nn.Conv(6, (3, 3), 2, name="conv")(x)))
        x = nn.relu(tap("fc1", nn.Dense(5, name="fc1")(x.reshape(len(x), -1))))
        return tap("fc2", nn.Dense(3, name="fc2")(x))


class NNXPerceptron(nnx.Module):
    def __init__(self, rngs):
        self.hidden = LIST([nnx.Linear(n, 6, rngs=rngs) for n in (7, 6)])
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x, tap=None, mask=None):
        if tap:
            x = x.reshape(len(x), -1)
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            x = nnx.tanh(tap(f"hidden/{i}", x) if tap else x)
        return self.head(x)


class LinenPerceptron(nn.Module):
    @nn.compact
    def __call__(self, x, tap=None, mask=None):
        if tap:
            x = x.reshape(len(x), -1)
        for i in range(2):
            x = nn.Dense(6, name=f"hidden_{i}")(x)
            x = nn.tanh(tap(f"hidden_{i}", x) if tap else x)
        return nn.Dense(3, name="head")(x)


TAPS = ("block/conv", "block", "conv", "fc1", "fc2")


def tapped(make, module, taps, head, image_shape):
    return make(
        module,
        taps=taps,
        head=head,
        image_shape=image_shape,
        num_classes=3,
        mean=[0.0] * image_shape[-1],
        std=[1.0] * image_shape[-1],
    )


def noisy(tree):
    """Adds noise, so that no statistic has its initial value and no bias is zero."""
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(0)
    return treedef.unflatten(
        [x + rng.uniform(-0.2, 0.2, x.shape).astype(np.float32) for x in leaves]
    )


def scaled(batch):
    return batch.astype(jnp.float32) / 255
