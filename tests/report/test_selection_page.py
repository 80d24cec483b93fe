import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from fkjax.base import Model, Variables, printable
from fkjax.label_shift.shift import bias
from fkjax.label_shift.types import Shares
from fkjax.parallel.examples import stream
from fkjax.report import selection_page as module
from fkjax.report.selection_page import MOST_CARDS, Kind, selection_page
from fkjax.selection.choose import Selection, probabilities
from fkjax.selection.pick import Mistake, Pick
from fkjax.selection.problem import Problem
from tests.pages import Page

HOSTILE = "<script>alert(1)</script> & $y$ “q”\x1b"
CLASSES = ["ant", HOSTILE, "cow"]
RNG = np.random.default_rng(0)
POOL, VALIDATION = (
    RNG.integers(0, 256, (n, 8, 8, 1)).astype(np.uint8) for n in (200, 60)
)
LABELS = np.where(np.arange(60) % 4 == 0, 2, VALIDATION[:, 0, 0, 0] % 3)


def apply(variables, images, tap=None):
    """Predicts the top left pixel modulo three."""
    return 3.0 * (images[:, 0, 0, :1] % 3 == np.arange(3)[None])


MODEL = Model(
    lambda key: Variables({}), apply, taps=("x",), head="", image_shape=(8, 8, 1),
    num_classes=3,
)  # fmt: skip


@pytest.fixture
def problem():
    return Problem(
        model=MODEL,
        variables=Variables({}),
        taps=("x",),
        pool=POOL,
        pool_ids=[f"{HOSTILE}{i}.png" for i in range(200)],
        is_unlabeled=np.arange(200) >= 20,
        validation=VALIDATION,
        validation_ids=[f"v{i}" for i in range(60)],
        validation_labels=LABELS,
        classes=CLASSES,
        is_trained=True,
    )


def chosen(problem, num=5, *, pseudo=True, answers=True):
    """Picks the examples from 20 on, matched to the mistakes in turn."""
    predicted = probabilities(problem, problem.validation).argmax(axis=1)
    is_mistake = predicted != problem.validation_labels
    mistakes = np.flatnonzero(is_mistake)
    indices = np.arange(20, 20 + num)
    targets = mistakes[np.arange(num) % 3] if answers else np.full(num, -1)
    picks = [
        Pick(
            rank + 1,
            problem.pool_ids[index],
            None if rank == 1 else 0.5,
            problem.classes[problem.validation_labels[target]] if pseudo else None,
            Mistake(
                problem.validation_ids[target],
                problem.classes[problem.validation_labels[target]],
                problem.classes[predicted[target]],
            )
            if answers
            else None,
            problem.classes[0],
            0.9,
            f"Because {HOSTILE}.",
        )
        for rank, (index, target) in enumerate(zip(indices, targets, strict=True))
    ]
    p = np.tile([0.9, 0.05, 0.05], (num, 1))
    return Selection(picks, "my_way", indices, targets, is_mistake, 180, p)


@pytest.fixture(scope="module")
def shift():
    # The pool is biased: the model predicts ant for all but 2 % of its examples.
    labels = np.arange(90) % 3
    probs = 0.1 + 0.7 * np.eye(3)[np.where(np.arange(90) % 10 == 0, 0, labels)]
    pool = 0.1 + 0.7 * np.eye(3)[np.where(np.arange(500) % 50 == 0, 2, 0)]
    return bias(pool, probs, labels, classes=CLASSES, num_resamples=40)


def read(source):
    page = Page(source)
    return page, " ".join("".join(page.text).split())


def pictures(page):
    sources = [a["src"] for tag, a in page.found if tag == "img"]
    for source in sources:
        head, data = source.split(",")
        assert head == "data:image/png;base64"
        yield np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_the_page_needs_nothing_but_itself_and_escapes_all(problem, shift):
    source = selection_page(problem, chosen(problem), shift, title=HOSTILE)
    page, text = read(source)
    tags = {tag for tag, _ in page.found}
    assert "<script" not in source and not {"script", "link", "iframe"} & tags
    for tag, attributes in page.found:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/png;base64,")), tag
    assert "@import" not in source and "url(http" not in source
    ids = [a["id"] for _, a in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"].removeprefix("#") for tag, a in page.found if tag == "a"}
    assert links <= set(ids)
    assert all(a.get("alt") for tag, a in page.found if tag == "img")
    assert "\x1b" not in source and r"\x1b" in text
    assert text.count("<script>") > 10 and page.found[0][0] == "html"
    names = [a for tag, a in page.found if a.get("name") == "generator"]
    assert names[0]["content"] == "fkjax.select"


def test_a_pick_stands_beside_the_mistake_that_it_answers(problem, shift):
    selection = chosen(problem)
    page, text = read(selection_page(problem, selection, shift))
    shown = list(pictures(page))
    assert len(shown) == 2 * 5
    for i, (index, target) in enumerate(
        zip(selection.indices, selection.targets, strict=True)
    ):
        np.testing.assert_array_equal(shown[2 * i], POOL[index, ..., 0])
        np.testing.assert_array_equal(shown[2 * i + 1], VALIDATION[target, ..., 0])
    assert f"1. {printable(selection.picks[0].id)}" in text and "score 0.5" in text
    assert "at random" in text and "Because" in text and "pick, assumed cow" in text
    assert "matches cow, predicted" in text


def test_the_headline_has_the_numbers(problem, shift):
    selection = chosen(problem)
    num = int(selection.is_mistake.sum())
    text = read(selection_page(problem, selection, shift))[1]
    assert "5 examples of 180 unlabeled, chosen by my_way." in text
    assert f"Each is matched to one of the model’s {num} mistakes on the" in text
    assert "pool200" in text and "validation set60" in text
    assert f"validation accuracy{100 * (1 - num / 60):.1f} %" in text
    assert "has not been trained on any label" not in text
    untrained = dataclasses.replace(problem, is_trained=False)
    text = read(selection_page(untrained, selection, shift))[1]
    assert "has not been trained on any label" in text


def test_at_most_some_cards_are_shown(problem, shift):
    num = MOST_CARDS + 7
    page, text = read(selection_page(problem, chosen(problem, num), shift))
    assert len(list(pictures(page))) == 2 * MOST_CARDS
    assert "7 more than the 60 shown here are in the CSV file" in text
    assert "48 more picks" in text  # in a `details` element
    all_of_them = selection_page(problem, chosen(problem, MOST_CARDS), shift)
    assert "CSV file" not in all_of_them


def test_picks_that_answer_nothing(problem, shift):
    selection = chosen(problem, pseudo=False, answers=False)
    page, text = read(selection_page(problem, selection, shift))
    assert len(list(pictures(page))) == 5
    assert "They are not matched to mistakes of the model" in text
    assert "the strategy assumed no class" in text
    assert "picks matched to each" not in text


def test_vectors_have_no_pictures(problem, shift):
    flat = dataclasses.replace(
        problem,
        pool=POOL.reshape(200, 1, 1, 64).astype(np.float32),
        validation=VALIDATION.reshape(60, 1, 1, 64).astype(np.float32),
    )
    selection = chosen(flat)
    page, text = read(selection_page(flat, selection, shift))
    assert not list(pictures(page))
    assert all(printable(pick.id) in text for pick in selection.picks)
    assert "Because" in text and "0.5" in text


def test_other_numbers_than_bytes_are_scaled_to_their_range(problem, shift):
    pool, known = (x.astype(np.float32) / 255 - 0.5 for x in (POOL, VALIDATION))
    scaled = dataclasses.replace(problem, pool=pool, validation=known)
    selection = chosen(problem)
    page, _ = read(selection_page(scaled, selection, None))
    parts = POOL[selection.indices], VALIDATION[np.unique(selection.targets)]
    low, high = min(p.min() for p in parts), max(p.max() for p in parts)
    expected = (POOL[20, ..., 0].astype(float) - low) * 255 / (high - low)
    found = next(pictures(page)).astype(float)
    np.testing.assert_allclose(found, expected, atol=1.01)
    constant = module._as_bytes(np.zeros((2, 8, 8, 1)), np.zeros((0, 8, 8, 1)))
    assert [c.shape[0] for c in constant] == [2, 0] and not constant[0].any()


def test_streamed_images_are_read(problem, shift):
    images = stream(lambda ids, then: POOL[ids], 200, (8, 8, 1))
    known = stream(lambda ids, then: VALIDATION[ids], 60, (8, 8, 1))
    streamed = dataclasses.replace(problem, pool=images, validation=known)
    page, _ = read(selection_page(streamed, chosen(problem), shift))
    np.testing.assert_array_equal(next(pictures(page)), POOL[20, ..., 0])


def test_the_balances_are_those_of_picks_labels_and_the_pool(
    problem, shift, monkeypatch
):
    drawn = []
    draw = module.charts.class_balances

    def spy(classes, balances, *, title):
        drawn.append((list(classes), {b.name: b for b in balances}))
        return draw(classes, balances, title=title)

    monkeypatch.setattr(module.charts, "class_balances", spy)
    selection = chosen(problem)
    source = selection_page(problem, selection, shift, labeled_counts=[6, 3, 1])
    ((classes, balances),) = drawn
    assert classes == CLASSES
    expected = np.bincount(LABELS[selection.targets], minlength=3) / 5
    np.testing.assert_allclose(balances["these picks"].shares, expected)
    np.testing.assert_allclose(balances["already labeled"].shares, [0.6, 0.3, 0.1])
    np.testing.assert_allclose(
        balances["validation set"].shares, np.bincount(LABELS, minlength=3) / 60
    )
    pool = balances["pool, estimated, with 95 % interval"]
    np.testing.assert_array_equal(pool.shares, shift.bbse.value)
    np.testing.assert_array_equal(pool.interval, [shift.bbse.low, shift.bbse.high])
    assert "by the class that the strategy assumed for them." in source

    mixed = selection.picks[:4] + [selection.picks[4]._replace(pseudo_label=None)]
    source = selection_page(problem, selection._replace(picks=mixed), None)
    _, balances = drawn[1]
    assert set(balances) == {"these picks", "validation set"}
    expected = np.bincount([*LABELS[selection.targets[:4]], 0], minlength=3) / 5
    np.testing.assert_allclose(balances["these picks"].shares, expected)
    assert "if it assumed none, by the model" in source


def test_of_many_classes_those_with_most_picks_are_drawn(problem, monkeypatch):
    names = [f"c{i}" for i in range(30)]
    model = MODEL._replace(
        apply=lambda v, images, tap=None: images[:, 0, 0, :1] * np.ones((1, 30)),
        num_classes=30,
    )
    many = dataclasses.replace(problem, classes=names, model=model)
    selection = chosen(problem)
    picks = [p._replace(pseudo_label=f"c{29 - p.rank}") for p in selection.picks]
    drawn = []
    monkeypatch.setattr(
        module.charts, "class_balances", lambda classes, *_, **__: drawn.append(classes)
    )
    source = selection_page(many, selection._replace(picks=picks), None)
    assert len(drawn[0]) == 20 and drawn[0] == sorted(
        drawn[0], key=lambda c: int(c[1:])
    )
    assert {f"c{29 - rank}" for rank in range(1, 6)} <= set(drawn[0])
    assert "Of 30 classes, the 20 with the most picks are shown." in source


def test_of_many_classes_those_of_the_largest_bias_come_first(shift):
    shares = np.array([0.5, 0.3, 0.2, *np.zeros(19)])
    pool = np.array([0.5, 0.1, np.nan, *np.zeros(18), 0.4])
    many = dataclasses.replace(
        shift,
        classes=[f"c{i}" for i in range(22)],
        validation=Shares(shares, shares, shares),
        **{name: Shares(pool, pool, pool) for name in ("em", "bbse", "ratio")},
    )
    rows = module._estimates(many)
    assert [name for name, _ in rows[:3]] == ["c21", "c1", "c0"]
    assert (rows[-1][0], len(rows)) == ("c2", 22)


def test_the_estimates_are_told_with_what_they_assume(problem, shift):
    text = read(selection_page(problem, chosen(problem), shift))[1]
    assert shift.sentence.startswith("The pool is biased: ")
    for part in (
        printable(shift.sentence),
        module.wording.ASSUMPTION,
        module.wording.BREAKS,
        "From 500 examples of the pool and 90 of the validation set, with 40 bootstrap",
        "The last column is the share by BBSE, divided by the share in the validation",
    ):
        assert part in text
    low, high = (module.percent(x[0]) for x in (shift.bbse.low, shift.bbse.high))
    assert f"{low.removesuffix(' %')} to {high}" in text


def test_classes_that_are_not_determined_are_left_out(problem, shift):
    is_known = np.array([True, True, False])
    bbse, ratio = (
        Shares(*(np.where(is_known, each, np.nan) for each in shares))
        for shares in (shift.bbse, shift.ratio)
    )
    part = dataclasses.replace(shift, bbse=bbse, bbse_problem="of it", ratio=ratio)
    page, text = read(selection_page(problem, chosen(problem), part))
    assert "BBSE is not determined for 1 of 3 classes: of it." in text
    assert "nan" not in text and "pool, estimated" in text
    row = text[text.index("times as frequent") :]
    shown = row[row.index("cow") : row.index("From 500")]
    assert shown.count("–") == 2 and "%" in shown


def test_what_is_not_determined_is_told(problem, shift):
    none = Shares(*np.full((3, 3), np.nan))
    unknown = dataclasses.replace(
        shift,
        bbse=none, bbse_problem="of <b>", em=none, em_problem="of it", best="",
        ratio=none, cautions=["Be <i>careful</i>."], verdict="undetermined",
        sentence="Undetermined: x.",
    )  # fmt: skip
    page, text = read(selection_page(problem, chosen(problem), unknown))
    assert "BBSE is not determined: of <b>." in text
    assert "EM is not determined: of it." in text and "The last column" not in text
    assert "Be <i>careful</i>." in text and "nan" not in text
    assert "pool, estimated" not in text
    assert {"class": "verdict undetermined"} in [a for _, a in page.found]
    by_em = dataclasses.replace(shift, bbse=none, bbse_problem="of <b>", best="em")
    text = read(selection_page(problem, chosen(problem), by_em))[1]
    assert "The last column is the share by EM" in text and "pool, estimated" in text


def test_without_estimates_the_reason_is_told(problem):
    text = read(
        selection_page(problem, chosen(problem), None, why_no_shift="No <cow>.")
    )[1]
    assert "was not estimated. No <cow>." in text
    assert "was not estimated." in selection_page(problem, chosen(problem), None)


def test_mistakes_are_counted_by_kind(problem):
    selection = chosen(problem, 7)
    predicted = VALIDATION[:, 0, 0, 0] % 3
    kinds = module._kinds(problem, selection)
    assert sum(k.num_mistakes for k in kinds) == selection.is_mistake.sum()
    assert sum(k.num_picks for k in kinds) == 7
    for kind in kinds:
        y, wrong = CLASSES.index(kind.label), CLASSES.index(kind.predicted)
        is_kind = (LABELS == y) & (predicted == wrong)
        assert y != wrong and kind.num_mistakes == is_kind.sum()
        assert kind.num_picks == is_kind[selection.targets].sum()
    assert kinds == sorted(kinds, key=lambda k: (-k.num_picks, -k.num_mistakes))
    text = read(selection_page(problem, selection, None))[1]
    first = kinds[0]
    assert isinstance(first, Kind) and (
        f"{first.label}{first.predicted}{first.num_mistakes}{first.num_picks}" in text
    )


def test_a_model_without_mistakes(problem):
    right = dataclasses.replace(problem, validation_labels=VALIDATION[:, 0, 0, 0] % 3)
    selection = chosen(problem, answers=False)._replace(is_mistake=np.zeros(60, bool))
    text = read(selection_page(right, selection, None))[1]
    assert "makes no mistake on the validation set" in text
    assert "validation accuracy100.0 %" in text


def test_one_pick(problem, shift):
    text = read(selection_page(problem, chosen(problem, 1), shift))[1]
    assert "1 example of 180 unlabeled" in text and "more picks" not in text


def test_the_same_selection_gives_the_same_bytes_and_fits_a_phone(problem, shift):
    source = selection_page(problem, chosen(problem), shift)
    assert source == selection_page(problem, chosen(problem), shift)
    assert "width=device-width" in source and "prefers-color-scheme: dark" in source
    # Every table can be scrolled sideways.
    assert source.count("<table") == source.count('<div class="scroll') == 2
