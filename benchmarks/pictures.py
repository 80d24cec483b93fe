"""Pictures of the reproduction."""

from pathlib import Path
from typing import Any

import numpy as np

from fkjax.report import curves as curves_module

VALIDATION_SIZES = (50, 100, 500, 2000, 10_000)
TRAINED = "random, trained on validation"
STYLES = {  # colors that are distinct with any color vision; dots for variants
    "random": ("#777777", "-"),
    TRAINED: ("#000000", "-"),
    "margin": ("#CC79A7", "-"),
    "feature_match": ("#56B4E9", "-"),
    "fisher_argmax": ("#E69F00", "-"),
    "fisher_nearest": ("#0072B2", "-"),
    "fisher_nearest_joint": ("#009E73", "-"),
    "fisher_oracle": ("#D55E00", "-"),
    "feature_match half random": ("#56B4E9", ":"),
    "fisher_argmax half random": ("#E69F00", ":"),
    "fisher_nearest half random": ("#0072B2", ":"),
}
SHOWN_LABELS = (250, 500, 1250)


def draw_validation_sizes(
    records: list[dict[str, Any]], folder: Path, name: str
) -> list[tuple[str, str]]:
    """Draws the accuracy over the size of the validation set.

    There is a panel for each number of labels. Lines are means, and bands extend from
    the lowest to the highest seed. The columns of the records are named "strategy,
    size".
    """
    from matplotlib.figure import Figure

    curves = curves_module.learning_curves(records)
    strategies = list(dict.fromkeys(c.rsplit(", ", 1)[0] for c in curves))
    picture = Figure(figsize=(11, 4.2), dpi=150, layout="constrained")
    grid = picture.subplots(1, len(SHOWN_LABELS), sharey=True)
    for axes, labels in zip(grid, SHOWN_LABELS, strict=True):
        for strategy in strategies:
            color, dashes = STYLES[strategy]
            points = []
            for size in VALIDATION_SIZES:
                curve = curves.get(f"{strategy}, {size:,}")
                if curve is not None and labels in curve.num_labeled:
                    i = curve.num_labeled.tolist().index(labels)
                    points.append((size, curve.mean[i], curve.low[i], curve.high[i]))
            if not points:
                continue
            x, mean, low, high = np.array(points).T
            axes.fill_between(x, 100 * low, 100 * high, color=color, alpha=0.12, lw=0)
            axes.plot(
                x,
                100 * mean,
                dashes,
                marker="o",
                color=color,
                ms=4,
                lw=1.6,
                label=strategy,
            )
        axes.set_xscale("log")
        axes.set_xticks(VALIDATION_SIZES, [f"{n:,}" for n in VALIDATION_SIZES])
        axes.tick_params("x", labelsize="small")
        axes.minorticks_off()
        axes.set_title(f"{labels:,} labels", loc="left", fontweight="bold")
        axes.set_xlabel("validation images")
        axes.grid(color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("test accuracy (%)")
    handles = grid[0].get_legend_handles_labels()
    picture.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    path = folder / f"{name}.png"
    picture.savefig(path, metadata={"Software": None})
    return [("Accuracy over the size of the validation set", path.name)]
