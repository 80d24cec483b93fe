"""The MNIST curves of the paper, read off its plots by eye to about one point.

The curves map the number of labels to the mean over seeds of the test accuracy, in
percent, of the epoch that was best on the test set. The models are pretrained on
rotations. E is the number of models in an ensemble, L the length of a descriptor.

Source: Gudovskiy et al. 2020 (arXiv:2003.00393).
"""

_LABELS = (125, 250, 375, 500, 625, 1250)


def _curve(*percent: float) -> dict[int, float]:
    return dict(zip(_LABELS, percent, strict=True))


MNIST_100X = {
    "random": _curve(50.5, 52.5, 55, 56.3, 58, 67),
    "vaal": _curve(51.6, 53.9, 57, 59.3, 62.1, 68.2),
    "variation_ratio E1": _curve(51, 62, 75, 83.3, 86.5, 92),
    "variation_ratio E4": _curve(51, 67.5, 79, 87.3, 90.5, 93.1),
    "feature_match L20": _curve(60.5, 71, 78.5, 82, 85, 89),
    "fisher_argmax L20": _curve(58.5, 72.5, 80, 84.3, 86, 91),
    "fisher_nearest L20": _curve(61, 78, 85.5, 88, 89.7, 92),
    "fisher_nearest L80": _curve(71.5, 84, 90, 91.3, 92.4, 93.6),
    "fisher_oracle L20": _curve(84.5, 92.5, 94.3, 94.7, 94.8, 95.1),
    "fisher_covariance L20": {250: 72, 500: 84.5, 1250: 91},
    "fisher_information L20": {250: 70, 500: 84.5, 1250: 91.2},
}
MNIST_100X_ALL_LABELED = 92.5
MNIST_1X = {
    "random": {125: 84.5, 250: 90.5, 500: 93.8, 1250: 96.1},
    "fisher_nearest L80": {125: 86, 250: 94.1, 500: 96.9, 1250: 98.3},
    "variation_ratio E4": {125: 85, 250: 90.8, 500: 95.8, 1250: 98.0},
}
RARE_AT_500 = {
    "variation_ratio E1": 36,
    "fisher_nearest L80": 75,
    "fisher_oracle L20": 89,
}
"""Mean accuracy of classes 5, 8 and 9 at 500 labels, 100x, from the confusion plots."""
