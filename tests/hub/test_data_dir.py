"""The data directory: secrets for their owner only, and one hub at a time."""

import stat
from pathlib import Path

import pytest

from hub.data_dir import DataDir, DataDirError


def test_a_second_hub_in_one_data_directory_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with DataDir(tmp_path).alone():
        second = DataDir(tmp_path).alone()
        with pytest.raises(DataDirError, match=f"another hub is running with the data directory {tmp_path}"):
            second.__enter__()
    with DataDir(tmp_path).alone():
        pass


def test_what_is_kept_stays_the_same_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    first, again = DataDir(tmp_path / "new"), DataDir(tmp_path / "new")
    assert (first.hub_id(), first.hub_mqtt_secret()) == (again.hub_id(), again.hub_mqtt_secret())
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
    for file in first.path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_data_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataDirError, match="cannot be made"):
        DataDir(tmp_path / "file" / "data")
