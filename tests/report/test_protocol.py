"""The table of corrections, where a run trains on the validation set or corrects."""

from fkjax.report import protocol, tables
from fkjax.runs.past_run import with_protocol
from tests.records import grid


def corrected(strategies, seeds, rounds, role="train"):
    records = grid(strategies, seeds, rounds)
    for r in records:
        r |= {
            "validation_role": role,
            "correction_strength": 1.0 + r["seed"],
            "correction_temperature": 0.5,
            "test_accuracy_uncorrected": r["test_accuracy"] - 0.1,
            "balanced_accuracy_uncorrected": r["balanced_accuracy"] - 0.1,
        }
    return records


def test_a_row_has_the_means_over_seeds_after_the_last_round():
    records = corrected(["random", "margin"], 2, 2)
    rows = protocol.corrections(protocol.last_records(records))
    assert rows == [
        ["random", "trained on", "1.50", "0.50", "54.50", "44.50"],
        ["margin", "trained on", "1.50", "0.50", "56.50", "46.50"],
    ]
    text = tables.markdown_table(records)
    assert "| random | trained on | 1.50 | 0.50 | 54.50 | 44.50 |" in text
    assert tables.correction_table(records).row_count == 2


def test_a_strategy_of_the_papers_protocol_is_said_to_be_held_out():
    records = [*grid(["random"], 1, 1), *corrected(["margin"], 1, 1, "hold-out")]
    rows = protocol.corrections(protocol.last_records(records))
    assert [row[:3] for row in rows] == [
        ["random", "held out", "–"],
        ["margin", "held out", "1.00"],
    ]


def test_runs_of_the_papers_protocol_have_no_such_table():
    records = grid(["random", "margin"], 2, 2)
    assert protocol.corrections(protocol.last_records(records)) == []
    assert tables.correction_table(records) is None
    assert tables.markdown_table(records).count("| strategy |") == 1


def test_a_configuration_of_before_has_its_protocol():
    held_out = {"validation_role": "hold-out", "prior_correction": "none"}
    assert with_protocol({"seed": 1}) == {"seed": 1} | held_out
    assert with_protocol({"train_on_validation": False}) == held_out
    trained = with_protocol({"train_on_validation": True})["validation_role"]
    assert trained not in ("train", "hold-out")  # it has no round 0
    now = {"validation_role": "train", "prior_correction": "counts"}
    assert with_protocol(now) == now
