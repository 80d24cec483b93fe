"""The mathematics: Fisher vectors, descriptors, kernels, Grams and metrics."""
