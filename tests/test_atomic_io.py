"""Files and folders are there as a whole or not at all, and nothing of a user's goes for them."""

import os
from pathlib import Path

import pytest

from relevancy.atomic_io import locked, whole, write_whole
from relevancy.errors import RelevancyError


def folder_with(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(text)
    return folder


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    folder = folder_with(tmp_path / "pics.png", "a user's")
    with pytest.raises(RelevancyError, match="is a folder: give the name of a file"):
        write_whole(folder, "a picture")
    assert (folder / "file").read_text() == "a user's"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", [".", "..", "inside/.."])
def test_a_path_without_a_name_of_its_own_is_refused(name, tmp_path, monkeypatch):
    inside = folder_with(tmp_path / "inside", "a user's")
    monkeypatch.chdir(inside)
    with pytest.raises(RelevancyError, match="give another"), whole(Path(name)):
        raise AssertionError
    assert (inside / "file").read_text() == "a user's"


def test_a_folder_takes_the_place_of_the_earlier_one(tmp_path):
    folder = folder_with(tmp_path / "model", "earlier")
    with whole(folder) as part:
        folder_with(part, "later")
    assert (folder / "file").read_text() == "later"
    assert list(tmp_path.iterdir()) == [folder]


def test_killed_between_the_renames_the_earlier_folder_comes_back(tmp_path, monkeypatch):
    folder = folder_with(tmp_path / "model", "earlier")
    rename = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt), whole(folder) as part:
            folder_with(part, "later")
    with pytest.raises(ZeroDivisionError), whole(folder):
        raise ZeroDivisionError
    assert (folder / "file").read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_lock_on_a_full_disk_is_one_line(tmp_path, full_disk):
    with full_disk(), pytest.raises(RelevancyError, match="is full: make room"), locked(tmp_path / "out"):
        raise AssertionError


def test_who_holds_a_lock_is_named(tmp_path):
    with locked(tmp_path), pytest.raises(RelevancyError, match=rf"\(pid {os.getpid()} on "), locked(tmp_path):
        raise AssertionError
