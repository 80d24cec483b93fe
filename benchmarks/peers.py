"""The same networks and computations in PyTorch, as its users would write them."""

from typing import Any

import jax
import numpy as np

from fkjax.base import Variables, path_of


class TorchLeNet:
    """The LeNet of `fkjax.models.lenet` in PyTorch, with given variables."""

    def __init__(self, torch: Any, variables: Variables, *, mean=0.1307, std=0.3081):
        """Copies the variables into the layouts of PyTorch."""
        self.torch, self.mean, self.std = torch, mean, std
        self.functional = torch.nn.functional
        self.parameters = {}
        for name, layer in variables.parameters.items():
            kernel = np.array(layer["kernel"])
            if name == "fc1":  # its input is (C, H, W) flattened, not (H, W, C)
                kernel = kernel.reshape(4, 4, 20, -1).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(320, -1)
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            self.parameters[f"{name}.weight"] = torch.tensor(
                kernel.transpose(axes).copy()
            )
            self.parameters[f"{name}.bias"] = torch.tensor(np.array(layer["bias"]))

    def images(self, images: np.ndarray) -> Any:
        """Normalizes images and converts their layout, which is not timed."""
        x = self.torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())
        return (x.float() / 255 - self.mean) / self.std

    def activations(self, p: dict[str, Any], x: Any) -> tuple[Any, ...]:
        """Returns conv1 and conv2 (after pool and ReLU), fc1 (after ReLU), logits."""
        f = self.functional
        a1 = f.relu(f.max_pool2d(f.conv2d(x, p["conv1.weight"], p["conv1.bias"]), 2))
        if not a1.requires_grad and self.torch.is_grad_enabled():
            a1.requires_grad_(True)
        a2 = f.relu(f.max_pool2d(f.conv2d(a1, p["conv2.weight"], p["conv2.bias"]), 2))
        a3 = f.relu(f.linear(a2.flatten(1), p["fc1.weight"], p["fc1.bias"]))
        return a1, a2, a3, f.linear(a3, p["fc2.weight"], p["fc2.bias"])

    def logits(self, p: dict[str, Any], x: Any) -> Any:
        """Returns the logits."""
        f = self.functional
        a = f.relu(f.max_pool2d(f.conv2d(x, p["conv1.weight"], p["conv1.bias"]), 2))
        a = f.relu(f.max_pool2d(f.conv2d(a, p["conv2.weight"], p["conv2.bias"]), 2))
        a = f.relu(f.linear(a.flatten(1), p["fc1.weight"], p["fc1.bias"]))
        return f.linear(a, p["fc2.weight"], p["fc2.bias"])

    def pooled_descriptors(self, x: Any, labels: Any, *, chunk: int) -> list[Any]:
        """Computes z and g of conv1, conv2 and fc1 by one backward pass per chunk."""
        torch, out = self.torch, []
        for xs, ys in zip(x.split(chunk), labels.split(chunk), strict=True):
            *taps, logits = self.activations(self.parameters, xs)
            log_p = self.functional.log_softmax(logits, 1)
            gradients = torch.autograd.grad(log_p.gather(1, ys[:, None]).sum(), taps)
            out.append(
                [
                    a.detach().mean((2, 3)) if a.ndim == 4 else a.detach()
                    for a in (*taps, *gradients)
                ]
            )
        return out

    def projected_gradients(
        self, x: Any, labels: Any, projection: Any, *, chunk: int
    ) -> list[Any]:
        """Computes gradients by torch.func.vmap(grad), then projects them densely.

        The projection has shape [P, K].
        """
        torch = self.torch

        def log_prob(p: dict[str, Any], x: Any, y: Any) -> Any:
            log_p = self.functional.log_softmax(self.logits(p, x[None]), 1)
            return log_p[0].gather(0, y[None])[0]

        gradient = torch.func.vmap(torch.func.grad(log_prob), (None, 0, 0))
        out = []
        with torch.no_grad():
            for xs, ys in zip(x.split(chunk), labels.split(chunk), strict=True):
                g = gradient(self.parameters, xs, ys)
                out.append(
                    torch.cat([v.flatten(1) for v in g.values()], 1) @ projection
                )
        return out

    def dropped_logits(self, p: dict[str, Any], x: Any) -> Any:
        """Returns the logits with the dropout of fkjax's LeNet in training."""
        f = self.functional
        a = f.relu(f.max_pool2d(f.conv2d(x, p["conv1.weight"], p["conv1.bias"]), 2))
        a = f.dropout(a, 0.25)
        a = f.relu(f.max_pool2d(f.conv2d(a, p["conv2.weight"], p["conv2.bias"]), 2))
        a = f.dropout(a, 0.25)
        a = f.relu(f.linear(a.flatten(1), p["fc1.weight"], p["fc1.bias"]))
        return f.linear(f.dropout(a, 0.5), p["fc2.weight"], p["fc2.bias"])

    def train(self, x: Any, labels: Any, *, batch_size: int, lr=0.05, momentum=0.5):
        """Trains for one epoch of SGD in a fixed order, with dropout."""
        torch = self.torch
        p = {k: v.clone().requires_grad_(True) for k, v in self.parameters.items()}
        optimizer = torch.optim.SGD(p.values(), lr=lr, momentum=momentum)
        for xs, ys in zip(x.split(batch_size), labels.split(batch_size), strict=True):
            optimizer.zero_grad()
            loss = self.functional.cross_entropy(self.dropped_logits(p, xs), ys)
            loss.backward()
            optimizer.step()
        return p

    def predict(self, x: Any, *, chunk: int) -> list[Any]:
        """Returns the most probable classes."""
        with self.torch.no_grad():
            return [self.logits(self.parameters, xs).argmax(1) for xs in x.split(chunk)]


class _TorchNetwork:
    """A network whose parameters are named by their paths.

    Attributes:
        torch: the module of PyTorch.
        parameters: parameters by path.
    """

    torch: Any
    parameters: dict[str, Any]

    def logits(self, p: dict[str, Any], x: Any) -> Any:
        """Returns the logits of a batch."""
        raise NotImplementedError  # each network has its own

    def gradients(self, x: Any, labels: Any) -> dict[str, Any]:
        """Computes gradients of log p(label) by torch.func.vmap(grad)."""
        torch = self.torch

        def log_prob(p: dict[str, Any], x: Any, y: Any) -> Any:
            log_p = torch.nn.functional.log_softmax(self.logits(p, x[None]), 1)
            return log_p[0].gather(0, y[None])[0]

        with torch.no_grad():
            return torch.func.vmap(torch.func.grad(log_prob), (None, 0, 0))(
                self.parameters, x, labels
            )

    def hashes(self, rank: int) -> dict[str, Any]:
        """Draws the rows and signs of count sketches, by path."""
        torch = self.torch
        return {
            path: (
                torch.randint(rank, (leaf.numel(),)),
                torch.randn(leaf.numel()).sign(),
            )
            for path, leaf in self.parameters.items()
        }

    def sketches(self, x: Any, labels: Any, hashes: dict[str, Any], rank: int) -> Any:
        """Computes count sketches of gradients; see `hashes`."""
        out = self.torch.zeros(len(labels), rank)
        for path, gradient in self.gradients(x, labels).items():
            rows, signs = hashes[path]
            out.index_add_(1, rows, gradient.flatten(1) * signs)
        return out


class TorchResNet10(_TorchNetwork):
    """The network of `fkjax.models.resnet10` at 32 x 32 in PyTorch."""

    def __init__(self, torch: Any, variables: Variables):
        """Copies the variables into the layouts of PyTorch, by their paths."""
        self.torch = torch
        self.parameters, self.statistics = (
            {
                path_of(path): torch.tensor(_torch_layout(np.array(leaf)))
                for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            }
            for tree in variables
        )

    def logits(self, p: dict[str, Any], x: Any) -> Any:
        """Returns the logits of images [N, 3, 32, 32], with running statistics."""
        f, statistics = self.torch.nn.functional, self.statistics

        def conv(x: Any, name: str, stride: int = 1) -> Any:
            kernel = p[f"{name}/kernel"]
            return f.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

        def norm(x: Any, name: str) -> Any:
            mean, var = (statistics[f"{name}/{kind}"] for kind in ("mean", "var"))
            return f.batch_norm(x, mean, var, p[f"{name}/scale"], p[f"{name}/bias"])

        x = f.relu(norm(conv(x, "stem"), "stem_norm"))
        for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
            name = f"stage{stage}/block1"
            y = f.relu(norm(conv(x, f"{name}/conv1", stride), f"{name}/norm1"))
            y = norm(conv(y, f"{name}/conv2"), f"{name}/norm2")
            if stride > 1:
                x = conv(x, f"{name}/shortcut", stride)
                x = norm(x, f"{name}/shortcut_norm")
            x = f.relu(x + y)
        return f.linear(x.mean((2, 3)), p["head/kernel"], p["head/bias"])


class TorchTransformer(_TorchNetwork):
    """The network of `benchmarks.transformers` in PyTorch."""

    def __init__(self, torch: Any, theta: Any, num_heads: int):
        """Copies the parameters, whose layouts are kept, by their paths."""
        self.torch, self.num_heads = torch, num_heads
        self.parameters = {
            path_of(path): torch.tensor(np.array(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(theta)
        }

    def logits(self, p: dict[str, Any], x: Any) -> Any:
        """Returns the logits of images [N, H, W, 3] or of tokens [N, T]."""
        f, torch = self.torch.nn.functional, self.torch

        def dense(x: Any, name: str) -> Any:
            bias = p[f"{name}/bias"].flatten()
            return x @ p[f"{name}/kernel"].reshape(x.shape[-1], -1) + bias

        def norm(x: Any, name: str) -> Any:
            scale, bias = p[f"{name}/scale"], p[f"{name}/bias"]
            return f.layer_norm(x, x.shape[-1:], scale, bias, eps=1e-6)

        def attention(x: Any, name: str) -> Any:
            q, k, v = (
                dense(x, f"{name}/{part}")
                .unflatten(-1, (self.num_heads, -1))
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
            return dense(
                (scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}/out"
            )

        if "embed/embedding" in p:
            x = f.embedding(x, p["embed/embedding"])
        else:
            size = p["embed/kernel"].shape[0]
            x = x.unflatten(1, (-1, size)).unflatten(3, (-1, size))
            x = dense(x.transpose(2, 3).flatten(3).flatten(1, 2), "embed")
        x = torch.cat([p["first"].expand(len(x), -1, -1), x], 1) + p["positions"]
        depth = sum(name.endswith("a/scale") for name in p)
        for i in range(depth):
            x = x + attention(norm(x, f"norm{i}a"), f"attention{i}")
            y = f.gelu(dense(norm(x, f"norm{i}b"), f"up{i}"), approximate="tanh")
            x = x + dense(y, f"down{i}")
        return dense(norm(x[:, 0], "norm"), "head")


def _torch_layout(leaf: np.ndarray) -> np.ndarray:
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim, range(leaf.ndim))
    return leaf.transpose(tuple(axes)).copy()
