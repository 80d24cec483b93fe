import io

import rich.console

from fkjax.report import tables
from tests.records import grid, record


def shown(table, width=80):
    console = rich.console.Console(file=io.StringIO(), width=width, force_terminal=True)
    console.print(table)
    return console.file.getvalue()


def plain(table, width=80):
    console = rich.console.Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_final_table_by_hand_in_80_columns():
    lines = plain(tables.final_table(grid(["random", "fisher_oracle"], 2, 2)))
    assert lines[0] == "strategy seeds labels test balanced worst area s/round".split()
    assert lines[2] == [
        *("random", "2", "200", "54.50±0.71", "44.50±0.71", "34.50±0.71"),
        *("52.50±0.71", "3.0"),
    ]
    assert lines[3][0] == "fisher_oracle"


def test_final_table_stops_where_all_seeds_are():
    records = grid(["a"], 2, 3)[:-1]
    assert plain(tables.final_table(records))[2][2] == "200"
    assert plain(tables.final_table(records, rounds=[0]))[2][2] == "100"
    assert plain(tables.final_table(records, rounds=[9]))[2][2:] == ["–"] * 6


def test_bold_is_for_the_best_of_comparable_strategies():
    bold = "\x1b[1m"
    rows = shown(tables.final_table(grid("ab", 2, 2))).splitlines()
    assert bold not in rows[2] and rows[3].count(bold) == 4
    alone = shown(tables.final_table(grid("a", 2, 2))).splitlines()
    assert bold not in alone[2]
    unequal = [*grid("a", 2, 2), *grid("b", 2, 1)]
    rows = shown(tables.final_table(unequal)).splitlines()
    assert bold not in rows[2] + rows[3]
    ties = [record("a", accuracy=0.900001), record("b", accuracy=0.9)]
    assert tables.markdown_table(ties).count("**90.00**") == 2 * 3


def test_names_are_not_markup():
    assert "[red]x" in shown(tables.final_table([record("[red]x")]))
    assert "| a\\|b |" in tables.markdown_table([record("a|b")])


def test_markdown_shows_text_as_it_is():
    text = tables.escape_markdown("fisher_nearest _a_ *b* `c` [d](e) <f> &g; h\\i\nj")
    assert text == (r"fisher_nearest \_a\_ \*b\* \`c\` \[d\](e) \<f\> \&g; h\\i j")


def test_markdown_table_by_hand():
    text = tables.markdown_table(
        grid(["a", "b"], 2, 2), {"paper": ([100, 300], [70, 80.5])}
    )
    final, points = text.split("\n\n")
    assert final.splitlines()[0].startswith("| strategy | seeds | labels | test |")
    assert points.splitlines() == [
        "| labels | a | b | paper (reference) |",
        "| --- | ---: | ---: | ---: |",
        "| 100 | 50.50±0.71 | **52.50±0.71** | 70.00 |",
        "| 200 | 54.50±0.71 | **56.50±0.71** | – |",
        "| 300 | – | – | 80.50 |",
    ]
