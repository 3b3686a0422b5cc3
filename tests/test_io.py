"""Files are written whole or not at all."""

import os
import stat

import pytest

from alchemjax.io import write_atomically

pytestmark = pytest.mark.usefixtures("cache")


def test_file_appears_whole_under_its_name_and_with_ordinary_rights(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.tar.gz", lambda path: path.write_text(path.name))
    finally:
        os.umask(old)
    assert (tmp_path / "a.tar.gz").read_text().endswith(".a.tar.gz")  # writers go by the suffix
    assert stat.S_IMODE((tmp_path / "a.tar.gz").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_old_file_stays_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")

    def half(path):
        path.write_text("ha")
        assert target.read_text() == "old"
        raise RuntimeError("lf")

    with pytest.raises(RuntimeError, match="lf"):
        write_atomically(target, half)
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    write_atomically(str(target), lambda path: path.write_text("new"))
    assert target.read_text() == "new"


def test_link_is_followed_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.csv").symlink_to(tmp_path / "real" / "a.csv")
    write_atomically(tmp_path / "a.csv", lambda path: path.write_text("x"))
    assert (tmp_path / "a.csv").is_symlink() and (tmp_path / "real" / "a.csv").read_text() == "x"


def test_file_that_cannot_be_written_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("")
    for path, why in [
        ("folder", "directory"),
        ("no/a.csv", "No such file"),
        ("folder/inside/a.csv", "Not a directory"),
    ]:
        with pytest.raises(ValueError, match=f"{path}' could not be written: .*{why}") as caught:
            write_atomically(tmp_path / path, lambda path: path.write_text("x"))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="a.csv' could not be written"):
        write_atomically(tmp_path / "a.csv", lambda path: None)  # a writer that wrote nothing
    assert not list(tmp_path.glob(".*"))
