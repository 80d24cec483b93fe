"""The same LeNet and the same work in PyTorch, as its users would write it."""

from typing import Any

import numpy as np

from fkjax.base import Variables


class TorchLeNet:
    """LeNet's forward pass from the variables of `fkjax.models.lenet`."""

    def __init__(self, torch: Any, variables: Variables, *, mean=0.1307, std=0.3081):
        """Copies the variables into PyTorch's layouts."""
        self.torch, self.mean, self.std = torch, mean, std
        self.functional = torch.nn.functional
        self.parameters = {}
        for name, layer in variables.parameters.items():
            kernel = np.array(layer["kernel"])
            if name == "fc1":  # it sees (C, H, W) flattened, not (H, W, C)
                kernel = kernel.reshape(4, 4, 20, -1).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(320, -1)
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            self.parameters[f"{name}.weight"] = torch.tensor(
                kernel.transpose(axes).copy()
            )
            self.parameters[f"{name}.bias"] = torch.tensor(np.array(layer["bias"]))

    def images(self, images: np.ndarray) -> Any:
        """Normalised and in PyTorch's layout, once, outside the clock."""
        x = self.torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())
        return (x.float() / 255 - self.mean) / self.std

    def activations(self, p: dict[str, Any], x: Any) -> tuple[Any, ...]:
        """conv1, conv2 (after pool and relu), fc1 (after relu), logits."""
        f = self.functional
        a1 = f.relu(f.max_pool2d(f.conv2d(x, p["conv1.weight"], p["conv1.bias"]), 2))
        if not a1.requires_grad and self.torch.is_grad_enabled():
            a1.requires_grad_(True)
        a2 = f.relu(f.max_pool2d(f.conv2d(a1, p["conv2.weight"], p["conv2.bias"]), 2))
        a3 = f.relu(f.linear(a2.flatten(1), p["fc1.weight"], p["fc1.bias"]))
        return a1, a2, a3, f.linear(a3, p["fc2.weight"], p["fc2.bias"])

    def logits(self, p: dict[str, Any], x: Any) -> Any:
        """The last of `activations`, without its taps."""
        f = self.functional
        a = f.relu(f.max_pool2d(f.conv2d(x, p["conv1.weight"], p["conv1.bias"]), 2))
        a = f.relu(f.max_pool2d(f.conv2d(a, p["conv2.weight"], p["conv2.bias"]), 2))
        a = f.relu(f.linear(a.flatten(1), p["fc1.weight"], p["fc1.bias"]))
        return f.linear(a, p["fc2.weight"], p["fc2.bias"])

    def pooled_descriptors(self, x: Any, labels: Any, *, chunk: int) -> list[Any]:
        """Z and g of conv1, conv2 and fc1 by one backward pass a chunk."""
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
        """torch.func.vmap(grad) over all parameters, then a dense [P, K] projection."""
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
        """`logits` with the dropout that fkjax's LeNet trains with."""
        f = self.functional
        a = f.relu(f.max_pool2d(f.conv2d(x, p["conv1.weight"], p["conv1.bias"]), 2))
        a = f.dropout(a, 0.25)
        a = f.relu(f.max_pool2d(f.conv2d(a, p["conv2.weight"], p["conv2.bias"]), 2))
        a = f.dropout(a, 0.25)
        a = f.relu(f.linear(a.flatten(1), p["fc1.weight"], p["fc1.bias"]))
        return f.linear(f.dropout(a, 0.5), p["fc2.weight"], p["fc2.bias"])

    def train(self, x: Any, labels: Any, *, batch_size: int, lr=0.05, momentum=0.5):
        """One epoch of stochastic gradient descent in a fixed order, with dropout."""
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
        """The most probable classes."""
        with self.torch.no_grad():
            return [self.logits(self.parameters, xs).argmax(1) for xs in x.split(chunk)]
