"""LeNet and its descriptors in plain NumPy loops, written from the equations."""

import numpy as np


def _convolve(x, kernel, bias):
    kh, kw, _, outputs = kernel.shape
    y = np.zeros((x.shape[0] - kh + 1, x.shape[1] - kw + 1, outputs))
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = np.tensordot(x[i : i + kh, j : j + kw], kernel, 3) + bias
    return y


def _convolve_back(error, kernel, shape):
    kh, kw = kernel.shape[:2]
    x = np.zeros(shape)
    for i in range(error.shape[0]):
        for j in range(error.shape[1]):
            x[i : i + kh, j : j + kw] += np.tensordot(kernel, error[i, j], (3, 0))
    return x


def _pool(x):
    h, w, c = x.shape
    return x.reshape(h // 2, 2, w // 2, 2, c).max((1, 3))


def _pool_back(error, x):
    back = np.zeros_like(x)
    for i in range(error.shape[0]):
        for j in range(error.shape[1]):
            for c in range(error.shape[2]):
                window = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
                a, b = np.unravel_index(window.argmax(), (2, 2))
                back[2 * i + a, 2 * j + b, c] = error[i, j, c]
    return back


def lenet_descriptors(weights, x, label):
    """Returns log p, z, g and the label; the prediction is assumed if label is None."""
    w = {name: (layer["kernel"], layer["bias"]) for name, layer in weights.items()}
    c1 = _convolve(x[:, :, None], *w["conv1"])
    a1 = np.maximum(_pool(c1), 0)
    c2 = _convolve(a1, *w["conv2"])
    a2 = np.maximum(_pool(c2), 0)
    a3 = np.maximum(a2.reshape(-1) @ w["fc1"][0] + w["fc1"][1], 0)
    logits = a3 @ w["fc2"][0] + w["fc2"][1]
    log_p = logits - logits.max()
    log_p -= np.log(np.exp(log_p).sum())
    label = int(log_p.argmax()) if label is None else label

    e4 = np.eye(len(log_p))[label] - np.exp(log_p)
    e3 = w["fc2"][0] @ e4
    e2 = (w["fc1"][0] @ (e3 * (a3 > 0))).reshape(a2.shape)
    e1 = _convolve_back(_pool_back(e2 * (a2 > 0), c2), w["conv2"][0], a1.shape)

    def mean(a):
        return a.mean((0, 1))

    z = {"conv1": mean(a1), "conv2": mean(a2), "fc1": a3, "logits": logits}
    g = {"conv1": mean(e1), "conv2": mean(e2), "fc1": e3, "logits": e4}
    return log_p, z, g, label
