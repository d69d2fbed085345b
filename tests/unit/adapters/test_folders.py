"""Folders are made where other processes move them away."""

from pathlib import Path

import pytest

from batchrun.adapters.storage import files


def test_a_folder_that_is_moved_away_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """As a run directory is by `--restart` of another process, between a call that finds it there
    and the look at what it is.
    """
    folder = tmp_path / "run"
    folder.mkdir()
    make, moved = Path.mkdir, []

    def mkdir(self, *arguments, **named):
        if self == folder and not moved:
            moved.append(folder.rename(tmp_path / "run.old"))
            raise FileExistsError(self)
        make(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    files.make_folder(folder)
    assert folder.is_dir() and moved[0].is_dir()


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    """It is not tried for ever."""
    (tmp_path / "run").write_text("")
    with pytest.raises(FileExistsError):
        files.make_folder(tmp_path / "run")
