"""Random projections of Fisher vectors, from D numbers to K."""

from fkjax.sketch.base import Sketch
from fkjax.sketch.embedding import (
    FisherSketch,
    embed,
    embed_all_classes,
    fisher_sketch,
    predicted,
    sampled,
)
from fkjax.sketch.planner import SketchPlan, auto
from fkjax.sketch.projection import Projection, identity, project, validation_span
from fkjax.sketch.structured import khatri_rao, kronecker, tensor_sketch
from fkjax.sketch.unstructured import (
    balanced_fold,
    count_sketch,
    gaussian,
    rademacher,
    srht,
)

__all__ = [
    "FisherSketch",
    "Projection",
    "Sketch",
    "SketchPlan",
    "auto",
    "balanced_fold",
    "count_sketch",
    "embed",
    "embed_all_classes",
    "fisher_sketch",
    "gaussian",
    "identity",
    "khatri_rao",
    "kronecker",
    "predicted",
    "project",
    "rademacher",
    "sampled",
    "srht",
    "tensor_sketch",
    "validation_span",
]
