"""Names of files that are written differently."""

import pytest

from fkjax.files.matching import Names

NAMES = Names(
    [
        *("a/1.png", "b/1.png", "B/x y.JPG", "cre\u0300me.png", "=1.png", " s.png"),
        *("100%.png", "E.png", "e.PNG", "f%20g.png", "h\\i.png", "größe 2.png"),
    ]
)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a/1.png", "a/1.png"),
        ("./a//1.png", "a/1.png"),
        ("a\\1.png", "a/1.png"),
        ("A/1.PNG", "a/1.png"),
        ("b/x%20y.jpg", "B/x y.JPG"),
        ("cr\u00e8me.png", "cre\u0300me.png"),
        ("CR%C3%88ME.png", "cre\u0300me.png"),
        ("=1.png", "=1.png"),
        ("'=1.png", "=1.png"),
        ("s.png", " s.png"),
        ("100%.png", "100%.png"),
        ("100%25.png", "100%.png"),
        ("E.png", "E.png"),
        ("e.PNG", "e.PNG"),
        ("f%20g.png", "f%20g.png"),
        ("f g.png", "f%20g.png"),
        ("h\\i.png", "h\\i.png"),
        ("H/i.png", "h\\i.png"),
    ],
)
def test_a_name_is_found_as_others_write_it(given, found):
    assert NAMES.find(given) == [found]


def test_what_is_not_certain_is_not_found():
    assert NAMES.find("e.png") == ["E.png", "e.PNG"]
    for given in ("", ".", "1.png", "c/1.png", "creme.png", "x y"):
        assert NAMES.find(given) == []


def test_the_nearest_names_are_named():
    assert NAMES.hint("e.png") == " (it can be E.png or e.PNG: write the name exactly)"
    assert NAMES.hint("images/1.png") == " (did you mean a/1.png or b/1.png?)"
    assert NAMES.hint("C:\\b\\X Y.jpg") == " (did you mean B/x y.JPG?)"
    assert NAMES.hint("creme.png") == " (did you mean cre\u0300me.png?)"
    assert NAMES.hint("größe 3.png") == NAMES.hint("") == NAMES.hint("zzz") == ""
    many = Names([f"{i}/x.png" for i in range(20_000)])
    assert many.hint("x.png") == " (did you mean 0/x.png or 1/x.png or 2/x.png, ...?)"
    assert many.hint("20000/y.png") == ""


def test_a_name_is_found_as_servers_store_it():
    assert NAMES.named("1.png") == ["a/1.png", "b/1.png"]
    assert NAMES.named("x_y.JPG") == ["B/x y.JPG"]
    assert NAMES.named("größe_2.png") == ["größe 2.png"]
    assert NAMES.named("100.png") == ["100%.png"]
    assert NAMES.named("none.png") == []
