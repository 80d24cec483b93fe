"""One pick, and the reason why it was chosen."""

from typing import Any, NamedTuple

_OF_UNCERTAINTY = {
    *("variation_ratio", "entropy", "bald", "mean_std", "margin", "least_confidence")
}


class Mistake(NamedTuple):
    """A validation example that the model misclassifies.

    Attributes:
        id: id of the example.
        label: true class of the example.
        predicted: class predicted by the model.
    """

    id: Any
    label: str
    predicted: str


class Pick(NamedTuple):
    """One example to label.

    Attributes:
        rank: rank of the example, from 1, the best.
        id: id of the example.
        score: score of the example by the strategy, such as the similarity to a mistake
            or the uncertainty; None if the example was drawn at random.
        pseudo_label: class that the strategy assumed; None if it assumed none.
        answers: validation mistake that the example was matched to; None if there is
            none.
        predicted: class predicted by the model.
        confidence: probability of the predicted class by the model.
        reason: sentence on why the example was chosen.
    """

    rank: int
    id: Any
    score: float | None
    pseudo_label: str | None
    answers: Mistake | None
    predicted: str
    confidence: float
    reason: str


def reason_of(pick: Pick, num_tied: int, strategy: str) -> str:
    """Returns the reason of a pick with the same score as `num_tied` other picks."""
    predicted = f"predicted class {pick.predicted} ({pick.confidence:.0%})"
    if pick.answers is not None:
        is_similar = pick.score is None or pick.score > 0
        sentence = (
            f"{'Similar' if is_similar else 'Not similar'} to validation example "
            f"{pick.answers.id} of class {pick.answers.label}, which the model "
            f"predicts as {pick.answers.predicted}"
        )
        if not is_similar:
            sentence += ", but chosen after all that are more similar to it"
        if pick.pseudo_label is not None:
            sentence += f"; assumed class {pick.pseudo_label}"
        return f"{sentence}; {predicted}."
    if pick.score is None:
        return f"Drawn at random; {predicted}."
    if num_tied:
        others = "another pick" if num_tied == 1 else f"{num_tied:,} other picks"
        return f"Its score equals that of {others}; {predicted}."
    if strategy == "vaal":
        taken = (
            "unlabeled" if pick.score > 0 else "labeled, but is among the least sure"
        )
        return f"The discriminator takes it for {taken}; {predicted}."
    if strategy in _OF_UNCERTAINTY:
        return f"The model is uncertain; {predicted}."
    if pick.pseudo_label is not None:
        return (
            "Adds much to the examples that are labeled or chosen before it; assumed "
            f"class {pick.pseudo_label}; {predicted}."
        )
    return f"Chosen by its score; {predicted}."


def reason_of_copy(pick: Pick) -> str:
    """Returns the reason of a pick that is an exact copy of another one."""
    return (
        "Exact copy: all different examples have been chosen before; predicted class "
        f"{pick.predicted} ({pick.confidence:.0%})."
    )
