import os

import pytest

from fkjax.base import UserError
from fkjax.files.folders import clear, list_files, locked, make_folder


def test_a_folder_is_made_once_and_not_its_parents(tmp_path):
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "a")
    assert (tmp_path / "a").is_dir()
    with pytest.raises(UserError, match="c: No such file"):
        make_folder(tmp_path / "b" / "c")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: File exists"):
        make_folder(tmp_path / "file")


def test_clear_removes_what_is_named_alone(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/c", "d", "e"):
        (tmp_path / name).touch()
    clear(tmp_path, "a", "d", "not there")
    assert os.listdir(tmp_path) == ["e"]


def test_a_lock_keeps_out_others_and_removes_leftovers(tmp_path):
    (tmp_path / ".a.1.tmp").touch()
    with locked(tmp_path):
        assert not os.listdir(tmp_path)
        with pytest.raises(UserError, match="nother process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_files_are_listed_by_suffix_with_their_sizes(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("a.PNG", "b/c/d.png", ".e.png", "f.txt"):
        (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "g.png").symlink_to("a.PNG")
    found = list_files(tmp_path, (".png",))
    assert found == {"a.PNG": 3, "b/c/d.png": 3, "g.png": 3}
    (tmp_path / "b" / "Thumbs.db").touch()
    others = []
    assert list_files(tmp_path, (".png",), others) == found and others == ["f.txt"]
    (tmp_path / "b" / "h.png").symlink_to(tmp_path.parent)
    with pytest.raises(UserError, match="points out of"):
        list_files(tmp_path, (".png",))


def test_links_out_of_the_folder_are_followed_if_the_flag_says_so(tmp_path):
    cache, folder = tmp_path / "cache", tmp_path / "images"
    for path in (cache / "more", folder / "a"):
        path.mkdir(parents=True)
    for i in range(22):
        (cache / f"{i:02}").write_bytes(b"abc")
        (folder / f"{i:02}.png").symlink_to(cache / f"{i:02}")
    (cache / "more" / "x.png").write_bytes(b"abcd")
    (folder / "more").symlink_to(cache / "more")
    with pytest.raises(UserError) as caught:
        list_files(folder, (".png",))
    said = str(caught.value)
    assert "23 links point out of" in said and "and 3 more" in said
    assert "--follow-links" in said and "follow_links=True" in said
    found = list_files(folder, (".png",), follow_links=True)
    assert found == {f"{i:02}.png": 3 for i in range(22)} | {"more/x.png": 4}
    (cache / "more" / "up").symlink_to(folder)
    with pytest.raises(UserError, match="more/up is a link to a folder that contains"):
        list_files(folder, (".png",), follow_links=True)


def test_broken_links_are_named_together(tmp_path):
    for i in range(22):
        (tmp_path / f"{i:02}.png").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for follow_links in (False, True):
        with pytest.raises(UserError) as caught:
            list_files(tmp_path, (".png",), follow_links=follow_links)
        said = str(caught.value)
        assert "19.png and 2 more could not be read (No such file" in said
        assert "loop could not be read (Too many levels" in said
