"""Fisher vectors, descriptors, kernels, Gram matrices and metrics."""
