"""A person's answers, checked against the request."""

from pathlib import Path

import pytest

from fkjax.base import UserError
from fkjax.labeling.answers import (
    CANNOT_TELL,
    AnswerFile,
    collect,
    read_classes,
    read_form,
    read_taken,
    save_taken,
)
from fkjax.labeling.label_studio import Answer

ASKED = ["a", "b", "c"]
CLASSES = ["cat", "dog"]


def source(answers, name="to_label.csv"):
    rows = [Answer(*a, f"line {i}") for i, a in enumerate(answers, start=2)]
    return AnswerFile(Path(name), rows, is_history=name != "to_label.csv")


def collected(*sources, earlier=None, classes=CLASSES, names=()):
    return collect(sources, ASKED, earlier=earlier or {}, classes=classes, names=names)


def test_answers_of_several_files_are_put_together_in_the_order_of_the_question():
    found = collected(
        source([("c", "dog"), ("a", "cat")]),
        source([("a", "cat"), ("b", "?")], "export.json"),
    )
    assert list(found.given.items()) == [("a", "cat"), ("b", CANNOT_TELL), ("c", "dog")]
    assert not found.missing and not found.notes
    assert collected(source([("b", "cat")])).missing == ["a", "c"]
    assert collected().missing == ASKED


@pytest.mark.parametrize("text", ["?", "can't tell", "Can't Tell", "can’t tell"])
def test_nobody_can_tell_is_said_in_several_ways(text):
    assert collected(source([("a", text)])).given == {"a": CANNOT_TELL}


def test_all_mistakes_of_a_file_are_told():
    answers = [("a", "catt"), ("b", "zebra"), ("x", "cat"), ("c", "cat"), ("c", "dog")]
    with pytest.raises(UserError) as told:
        collected(source(answers))
    assert str(told.value).startswith(
        "to_label.csv: line 2: unknown class 'catt' (did you mean cat?); line 3: "
        "unknown class 'zebra'; line 4: x was not requested; line 6: c is dog, but "
        "cat in to_label.csv, line 5: no answers were accepted;"
    )


def test_classes_are_the_same_in_each_unicode_form():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for known, given in ((composed, decomposed), (decomposed, composed)):
        assert collected(source([("a", given)]), classes=["x", known]).given["a"] == (
            known
        )
    both = [composed, decomposed]
    assert collected(source([("a", decomposed)]), classes=both).given["a"] == decomposed


def test_the_nearest_image_is_named():
    names = [*ASKED, "a/1.png", "b/1.png", "d.png"]
    for given, hint in (
        ("x/d.png", " (did you mean d.png?)"),
        ("1.png", " (did you mean a/1.png or b/1.png?)"),
        ("d.png", ""),
    ):
        with pytest.raises(UserError) as caught:
            collected(source([(given, "cat")]), names=names)
        assert f"{given} was not requested{hint}: no answers" in str(caught.value)


def test_files_that_disagree_are_told():
    form, export = source([("a", "cat")]), source([("a", "dog")], "export.json")
    with pytest.raises(UserError, match="a is dog, but cat in to_label.csv, line 2"):
        collected(form, export)


def test_what_was_taken_counts_and_is_not_asked_again():
    earlier = {"x": "cat", "y": CANNOT_TELL}
    same, other = [("x", "cat"), ("y", "?")], [("x", "dog")]
    assert collected(source(same), earlier=earlier).missing == ASKED
    found = collected(source(other, "export.json"), earlier=earlier)
    assert found.missing == ASKED and len(found.notes) == 1
    said = "x was accepted as cat, but is now dog"
    assert f"{said}; the accepted label is kept" in found.notes[0]
    with pytest.raises(UserError, match=f"{said}: restore the accepted label"):
        collected(source(other), earlier=earlier)


def test_what_was_taken_comes_back_from_its_file(tmp_path):
    path = tmp_path / "answers.csv"
    assert read_taken(path, []) == {}
    names = ["=a", "b,c.png", "d\n.png", " e.png"]
    taken = {1: {"b,c.png": "=1+1"}, 2: {"=a": CANNOT_TELL, "d\n.png": "'tis"}}
    taken[3] = {" e.png": "cat"}
    save_taken(path, taken)
    assert read_taken(path, names) == taken
    assert b"\n2,'=a,can't tell\n" in path.read_bytes()
    with pytest.raises(UserError, match="line 3: not a valid answer"):
        read_taken(path, ["b,c.png", "d\n.png"])


def test_a_form_is_read_as_a_spreadsheet_saves_it(tmp_path):
    path = tmp_path / "to_label.csv"
    path.write_text("\ufefffile;label;guess\r\n'=a;cat;dog\r\nb;;dog\r\nx; ? ;\r\n")
    answers, listed = read_form(path, ["=a", "b"])
    assert answers == [Answer("=a", "cat", "line 2"), Answer("x", "?", "line 4")]
    assert listed == {"=a", "b", "x"}
    path.write_text("file,label\nE\u0301 1.PNG,cat\n", encoding="utf-16")
    assert read_form(path, [" \u00e9 1.png"])[1] == {" \u00e9 1.png"}
    path.write_text("label\na\n")
    with pytest.raises(UserError, match="but file is missing"):
        read_form(path, [])


def test_classes_are_read_one_a_line(tmp_path):
    path = tmp_path / "classes.txt"
    assert read_classes(path) == []
    path.write_bytes("\ufeffcat\r\n\r\n big dog \ncat".encode())
    assert read_classes(path) == ["cat", "big dog"]
    path.write_bytes("caf\u00e9\ncafe\u0301\n".encode())
    assert read_classes(path) == ["caf\u00e9"]
    path.write_text("cat\nCan't tell\n?\n\x07")
    with pytest.raises(UserError, match="line 2: .*; line 3: .*; line 4: "):
        read_classes(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="must be UTF-8"):
        read_classes(path)
