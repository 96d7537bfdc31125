"""A file is there whole or not at all."""

import os

import pytest

from healnet._files import atomic_path, leftovers, need, shown


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        assert leftovers(tmp_path) == {path: [temporary]}
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("old")

    def interrupted():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_are_known_by_the_file_that_they_were_to_become(tmp_path):
    (tmp_path / "other").mkdir()
    parts = [
        tmp_path / ".a[1].h5.123.part",
        tmp_path / ".a[1].h5.45.part",
        tmp_path / "other" / ".a.h5.6.part",
    ]
    for file in (*parts, tmp_path / "a[1].h5", tmp_path / ".hidden"):
        file.touch()
    found = {target: sorted(files) for target, files in leftovers(tmp_path, tmp_path / "other").items()}
    assert found == {tmp_path / "a[1].h5": parts[:2], tmp_path / "other" / "a.h5": parts[2:]}


def test_two_writers_of_one_file_do_not_share_a_temporary(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


def test_an_absent_package_is_asked_for_by_name():
    with pytest.raises(
        ImportError, match=r"^reading slides needs no_such_module; install it with `pip install no-such`$"
    ):
        need("no_such_module", "no-such", "reading slides")
    assert need("json", "json", "this").loads("1") == 1


def test_any_path_can_be_shown(tmp_path):
    name = shown(tmp_path / os.fsdecode(b"\xff.svs"))
    assert name == f"{tmp_path}/\\xff.svs"
    assert name.encode("ascii")
