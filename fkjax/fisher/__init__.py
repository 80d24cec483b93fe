"""Fisher vectors, descriptors, kernels, Gram matrices and metrics."""

from fkjax.fisher.descriptors import (
    Descriptor,
    all_gradients,
    descriptor,
    feature_derivatives,
    features,
)
from fkjax.fisher.factors import Factors
from fkjax.fisher.gram import convolution_gram, product_gram
from fkjax.fisher.kernel import (
    Kernel,
    last_layer,
    multi_scale,
    pearson_features,
    similarity,
)
from fkjax.fisher.vectors import fisher_vector, fisher_vectors, of_parameters, subset

__all__ = [
    "Descriptor",
    "Factors",
    "Kernel",
    "all_gradients",
    "convolution_gram",
    "descriptor",
    "feature_derivatives",
    "features",
    "fisher_vector",
    "fisher_vectors",
    "last_layer",
    "multi_scale",
    "of_parameters",
    "pearson_features",
    "product_gram",
    "similarity",
    "subset",
]
