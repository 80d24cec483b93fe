import math

import pytest

from fkjax.report import analysis, comparison, findings, statistics
from fkjax.report.analysis import Interval, Pair, Reached
from tests.records import grid, record, write_run


@pytest.fixture
def compare(tmp_path):
    def compare(*runs):
        for i, (records, config) in enumerate(runs):
            write_run(tmp_path / f"run{i}", records, **config)
        read = comparison.read([tmp_path / f"run{i}" for i in range(len(runs))])
        return read, analysis.analyse(read)

    return compare


def test_the_headline_names_who_is_ahead(compare):
    text = findings.headline(*compare((grid(["a", "b", "c"], 2, 2), {})))
    assert text == (
        "c has the largest area under the learning curve: 56.5 [56.0, 57.0] %; b is "
        "next with 54.5 [54.0, 55.0] %; a has the smallest, 52.5 [52.0, 53.0] %."
    )


def test_an_ablation_does_not_win(compare):
    text = findings.headline(*compare((grid(["a", "fisher_oracle"], 1, 2), {})))
    assert text == (
        "The area under the learning curve of a is 52.0 % (not ranked: fisher_oracle, "
        "which uses hidden labels)."
    )


def test_unequal_labels_have_no_winner(compare):
    records = [*grid(["a"], 1, 2), record("b"), record("c") | {"test_accuracy": None}]
    assert "are not comparable" in findings.headline(*compare((records, {})))


def test_no_headline_without_a_number(compare):
    records = [record(accuracy=0.5) | {"test_accuracy": None}]
    assert findings.headline(*compare((records, {}))) == ""


def pairs(num_seeds, num_pairs):
    test = statistics.paired(range(1, num_seeds + 1), [0] * num_seeds)
    return [Pair("a", "b", [1], {"area": test, "test": test}, {})] * num_pairs


def test_power_is_told_plainly():
    few = findings.power(pairs(5, 1))
    assert "2/2^5 = 0.0625" in few and "that takes at least 6 seeds" in few
    corrected = findings.power(pairs(6, 3))
    assert "2/2^6 = 0.03125, or 0.0938 after Holm" in corrected
    assert "that takes at least 7 seeds" in corrected
    enough = findings.power(pairs(8, 3))
    assert "takes" not in enough and enough.count("below") == 1
    assert "A single paired seed" in findings.power(pairs(1, 2))
    assert "no two strategies share" in findings.power([])
    for text in (few, corrected, enough):
        assert text.endswith(".") and "\n" not in text


@pytest.mark.parametrize(("seeds", "word"), [(1, "single"), (5, "5 seeds"), (10, "")])
def test_few_seeds_are_a_caution(compare, seeds, word):
    text = findings.few_seeds(compare((grid(["a"], seeds, 1), {}))[1])
    assert word in text and bool(text) == bool(word)


def test_numbers_as_text():
    assert findings.with_interval(Interval(50, math.nan, math.nan)) == "50.0"
    assert findings.with_interval(Interval(math.nan, math.nan, math.nan)) == "–"
    assert findings.number(1234.56) == "1,234.6"
    assert findings.p_value(0.03125) == "0.0312" and findings.p_value(1.0) == "1"
    assert findings.p_value(2**-20) == "< 0.0001"
    up, none = statistics.paired([3, 4], [1, 1]), statistics.paired([1], [1])
    assert findings.difference(up) == "+2.5 [+2.0, +3.0]"
    assert findings.difference(none) == "0.0"
    assert findings.difference(statistics.paired([1], [2.5])) == "−1.5"


def test_labels_needed_as_text():
    def shown(at, by_seed, is_at_start=False):
        return findings.labels_needed(Reached("a", 80, at, is_at_start, by_seed))

    assert shown(1200.4, [1100, 1300]) == ("1,200", "1,100 to 1,300")
    assert shown(100, [100, 100, None], True) == ("≤ 100", "100, 2 of 3 seeds")
    assert shown(None, [None, None]) == ("not reached", "by any seed")
    assert shown(None, [None]) == ("not reached", "")


def test_the_configuration_shows_what_differs_first(compare):
    read, _ = compare(
        ([record(seed=0)], {"taps": ["a", "b"], "versions": {"jax": "1", "np": "2"}}),
        ([record(seed=1)], {"taps": ["a", "b"], "versions": {"jax": "9", "np": "2"}}),
        ([record(seed=0)], {"taps": ["a"], "versions": {"jax": "1", "np": "2"}}),
    )
    lines = findings.configuration(read.experiments)
    by_name = {line.name: line for line in lines}
    assert by_name["taps"].values == ["a b", "a"] and by_name["taps"].differs
    assert by_name["version of jax"].values == ["1, 9", "1"]
    assert by_name["version of jax"].differs and not by_name["version of np"].differs
    assert by_name["seed"].values == ["0, 1", "0"]
    assert [line.differs for line in lines] == sorted(
        (line.differs for line in lines), reverse=True
    )
    assert not {"output_dir", "versions"} & set(by_name)
