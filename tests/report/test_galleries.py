import base64
import io

import numpy as np
import pytest
from PIL import Image

from fkjax.base import UserError
from fkjax.parallel.examples import stream
from fkjax.report import comparison
from fkjax.report import galleries as queried
from tests.records import one_sentence, record, write_run


def ask(folder, digits, strategy, seed, round, ids, pseudo_labels, targets):
    labels = digits.train_labels[ids]
    position = {"strategy": strategy, "seed": seed, "round": round}
    folder.append_queries(ids, labels, pseudo_labels, targets, **position)


@pytest.fixture
def run(tmp_path, digits):
    """A run of `=x` (a formula for a spreadsheet) and `random`, seeds 3 and 4."""
    seeds, rounds = (4, 3), range(1, 5)
    records = [
        record(strategy, seed, number, classes=10)
        for strategy in ("=x", "random")
        for seed in seeds
        for number in rounds
    ]
    folder = write_run(tmp_path / "run", records)
    for r in records:
        ids = np.arange(8) + 10 * r["round"] + r["seed"]
        some, none = np.arange(8) + 900, np.full(8, -1)
        marks = (some % 10, some) if r["strategy"] == "=x" else (none, none)
        ask(folder, digits, r["strategy"], r["seed"], r["round"], ids, *marks)
    return folder


def pixels(uri):
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_queries_stand_beside_their_mistakes(run, digits):
    matched, random = queried.galleries(comparison.read([run.path]))
    assert (matched.name, matched.seed, matched.reason) == ("=x", 3, "")
    assert [strip.round for strip in matched.strips] == [1, 3, 4]
    strip = matched.strips[1]
    assert strip.num_queries == 8 and len(strip.examples) == queried.PER_ROUND
    for i, example in enumerate(strip.examples):
        image = digits.train_images[33 + i, ..., 0]
        np.testing.assert_array_equal(pixels(example.image), image)
        np.testing.assert_array_equal(
            pixels(example.mistake), digits.train_images[900 + i, ..., 0]
        )
        assert example.label == digits.train_labels[33 + i]
        assert example.mistake_label == digits.train_labels[900 + i]
        assert example.pseudo_label == (900 + i) % 10
    for example in random.strips[0].examples:
        assert example.pseudo_label is example.mistake is example.mistake_label is None


def reason(run, **config):
    if config:
        run.write_config(run.read_config() | config)
    (first, _) = queried.galleries(comparison.read([run.path]))
    assert first.reason.endswith(".") and not first.strips
    return first.reason


def test_it_says_why_there_is_nothing_to_see(run, monkeypatch, digits):
    def load(name, *, data_dir, may_prepare, image_size):
        assert (data_dir, may_prepare, image_size) == ("there", False, 32)
        raise UserError("digits is not in there; look elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr(queried.datasets, "load", load)
        why = reason(run, data_dir="there", image_size=32)
        assert why == (
            "The dataset could not be read: digits is not in there; look elsewhere."
        )
    with monkeypatch.context() as patch:
        other = digits._replace(train_labels=(digits.train_labels + 1) % 10)
        patch.setattr(queried.datasets, "load", lambda *_, **__: other)
        assert "do not match the queries" in reason(run)
        short = digits._replace(train_labels=digits.train_labels[:50])
        patch.setattr(queried.datasets, "load", lambda *_, **__: short)
        assert "do not match the queries" in reason(run)
    with (run.path / "queries.csv").open("a") as file:
        file.write("random,3,1,9,,,\n")  # as for an image that a person gave no class
    assert "labeling session" in reason(run, images="photos")
    (run.path / "queries.csv").unlink()
    assert "no queries.csv" in reason(run, images=None)


def test_noisy_answers_are_no_sign_of_other_data(run, monkeypatch, digits):
    other = digits._replace(train_labels=(digits.train_labels + 1) % 10)
    run.write_config(run.read_config() | {"label_noise": 0.1})
    monkeypatch.setattr(queried.datasets, "load", lambda *_, **__: other)
    (first, _) = queried.galleries(comparison.read([run.path]))
    assert first.strips


def test_the_data_folder_can_be_named(run, monkeypatch, digits):
    seen = []

    def load(name, *, data_dir, **_):
        seen.append((name, data_dir))
        return digits

    monkeypatch.setattr(queried.datasets, "load", load)
    queried.galleries(comparison.read([run.path]), data_dir="other")
    assert seen == [("digits", "other")]  # once for all strategies


def test_streamed_images_become_thumbnails(run, monkeypatch, digits):
    def fetch(ids, then):
        if 13 in ids:
            raise UserError("image 13 is damaged; replace it")
        return np.full((len(ids), 200, 200, 3), ids[:, None, None, None] % 256, "u1")

    images = stream(fetch, len(digits.train_labels), (200, 200, 3))
    other = digits._replace(train_images=images)
    monkeypatch.setattr(queried.datasets, "load", lambda *_, **__: other)
    assert reason(run) == "image 13 is damaged; replace it."
    text = (run.path / "queries.csv").read_text()
    (run.path / "queries.csv").write_text(text.replace("3,1,13,", "3,1,14,"))
    monkeypatch.setattr(queried, "_is_of", lambda *_: True)
    (first, _) = queried.galleries(comparison.read([run.path]))
    image = pixels(first.strips[1].examples[2].image)
    assert image.shape == (96, 96, 3) and (image == 35).all()


@pytest.mark.parametrize(
    "line", ["'=x,3,1,a,1,,", "'=x,3,1,1", "'=x,3,x,1,1,,", "head"]
)
def test_a_damaged_file_is_told(run, line):
    path = run.path / "queries.csv"
    text = path.read_text()
    path.write_text("other\n" if line == "head" else f"{text}{line}\n")
    with pytest.raises(UserError, match="queries.csv") as error:
        queried.galleries(comparison.read([run.path]))
    assert one_sentence(error)
