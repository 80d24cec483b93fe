"""A network that compiles fast, for tests of what is done with a network."""

from flax import nnx

from fkjax.base import Model
from fkjax.models import Architecture, from_nnx
from fkjax.models.convolution import conv_general_dilated, max_pool

TAPS = ("conv1", "fc1")
_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class _Tiny(nnx.Module):
    def __init__(self, image_shape, num_classes, rngs):
        height, width, channels = image_shape
        made = {"kernel_init": _uniform, "rngs": rngs}
        self.conv1 = nnx.Conv(
            channels, 4, (3, 3), conv_general_dilated=conv_general_dilated, **made
        )
        self.fc1 = nnx.Linear(4 * (height // 2) * (width // 2), 16, **made)
        self.fc2 = nnx.Linear(16, num_classes, **made)

    def __call__(self, x, tap):
        x = tap("conv1", nnx.relu(max_pool(self.conv1(x))))
        x = tap("fc1", nnx.relu(self.fc1(x.reshape(len(x), -1))))
        return tap("logits", self.fc2(x))


def tiny(
    image_shape,
    num_classes,
    *,
    mean=(0.5,),
    std=(0.25,),
    conv_dropout=0.25,
    dense_dropout=0.5,
) -> Model:
    """Like `lenet`, of one convolution of 4 channels and a dense layer of 16."""
    model = from_nnx(
        lambda rngs: _Tiny(image_shape, num_classes, rngs),
        taps=("conv1", "fc1", "logits"),
        head="fc2",
        image_shape=image_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
    )
    return model._replace(dropout=(("conv1", conv_dropout), ("fc1", dense_dropout)))


ARCHITECTURE = Architecture(tiny, TAPS, conv_dropout=0.25, dense_dropout=0.5)
"""For tests of commands: `monkeypatch.setitem(MODELS, "tiny", ARCHITECTURE)`."""
