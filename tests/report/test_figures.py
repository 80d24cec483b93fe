import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from fkjax.base import UserError
from fkjax.report import figures, plots
from tests.records import grid, one_sentence, record


@pytest.mark.parametrize(
    ("strategies", "seeds", "rounds"), [(1, 1, 1), (3, 3, 1), (10, 2, 4), (12, 1, 2)]
)
def test_learning_curve_is_drawn(tmp_path, strategies, seeds, rounds):
    records = grid([f"strategy {k} $" for k in range(strategies)], seeds, rounds)
    path = tmp_path / "curve.png"
    figures.draw_learning_curve(records, path, title="Digits, $5")
    image = imread(path)[..., :3]
    assert image.shape == (750, 1200, 3)
    assert 0.01 < (image < 0.9).any(axis=-1).mean() < 0.5
    for color in plots.COLORS[:strategies]:
        rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (np.abs(image - rgb).max(axis=-1) < 0.01).sum() > 20, color
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_learning_curve_of_round_0_alone(tmp_path):
    """The model of the validation set alone has bought no label."""
    path = tmp_path / "curve.png"
    figures.draw_learning_curve(
        [record("a", 0, 0, 0.5) | {"num_labeled": 0}], path, title="Digits"
    )
    assert path.exists()


def test_learning_curve_shows_the_band_the_gap_and_the_reference(tmp_path):
    def draw(records, **options):
        figures.draw_learning_curve(records, tmp_path / "x.png", **options)
        return imread(tmp_path / "x.png")

    whole = draw(grid("a", 2, 3))
    assert (whole != draw(grid("a", 1, 3))).any()
    assert (whole != draw(grid("a", 2, 3)[:-1])).any()
    reference = {"a": ([100, 200], [40, 60]), "b": ([100, 200], [41, 61])}
    assert (whole != draw(grid("a", 2, 3), reference=reference)).any()


def test_many_published_curves_have_their_own_panel(tmp_path):
    names = "abcd"
    reference = {name: ([100, 200], [40, 60]) for name in names}
    path = tmp_path / "x.png"
    figures.draw_learning_curve(grid(list(names), 2, 3), path, reference=reference)
    beside = imread(path)[..., :3]
    assert beside.shape == (750, 1800, 3)
    blue = np.array([0x00, 0x72, 0xB2]) / 255  # the color of "a", in both panels
    is_blue = np.abs(beside - blue).max(axis=-1) < 0.01
    left, right = is_blue[:, :700].sum(), is_blue[:, 800:1400].sum()
    assert left > 20 and right > 20


@pytest.mark.parametrize(
    ("panels", "classes"), [(1, 3), (1, 30), (2, 15), (3, 10), (8, 3)]
)
def test_confusion_is_drawn(tmp_path, panels, classes):
    records = grid([f"s{k}" for k in range(panels)], 2, 1, classes=classes)
    figures.draw_confusion(records, tmp_path / "x.png")
    image = imread(tmp_path / "x.png")[..., :3]
    widest = 1800 if panels == 3 else 1300  # three panels are in one row
    assert image.shape[0] >= 600 and 900 <= image.shape[1] <= widest
    assert 0.1 < (image < 0.97).any(axis=-1).mean() < 0.95


def test_confusion_of_a_class_without_examples(tmp_path, recwarn):
    figures.draw_confusion([record(confusion=[[3, 1], [0, 0]])], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
    assert not list(recwarn)


@pytest.mark.parametrize("draw", [figures.draw_learning_curve, figures.draw_confusion])
def test_figures_replay_and_explain(tmp_path, draw):
    records = grid(["a", "b"], 2, 2)
    draw(records, tmp_path / "1.png")
    with pytest.MonkeyPatch.context() as patch:
        import matplotlib

        patch.setitem(matplotlib.rcParams, "font.size", 20)  # a user's setting
        draw(records, tmp_path / "2.png")
    data = (tmp_path / "1.png").read_bytes()
    assert data == (tmp_path / "2.png").read_bytes()
    assert b"matplotlib" not in data.lower() and b"tIME" not in data
    with pytest.raises(UserError) as error:
        draw(records, tmp_path / "none" / "x.png")
    assert one_sentence(error)
    with pytest.raises(UserError) as error:
        draw([], tmp_path / "x.png")
    assert one_sentence(error)


def test_import_is_light():
    code = "import sys, fkjax.report.figures; print('matplotlib' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
