"""Files on a local storage appear whole, or not at all."""

from __future__ import annotations

import os
import time

import pytest

from tasks.storage import UNFINISHED, Storage


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


def test_a_file_is_the_old_one_until_the_new_one_is_whole(storage):
    storage.write("parts/a", b"old")
    with storage.writing("parts/a") as file:
        file.write(b"new")
        file.flush()
        assert storage.read("parts/a", 0, 9) == b"old"
    assert storage.read("parts/a", 0, 9) == b"new"


def test_what_breaks_off_leaves_nothing(storage, tmp_path):
    storage.write("parts/a", b"old")
    with pytest.raises(TypeError), storage.writing("parts/a") as file:
        file.writelines([b"new", "no bytes"])
    assert storage.read("parts/a", 0, 9) == b"old"
    assert list((tmp_path / UNFINISHED).iterdir()) == []


def test_what_a_dead_process_left_unfinished_is_deleted_in_time(storage, tmp_path):
    storage.clear(60)  # there need not be anything
    folder = tmp_path / UNFINISHED
    folder.mkdir()
    for name, age in (("old", 61), ("new", 30)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, times=(time.time() - age,) * 2)
    storage.clear(60)
    assert [path.name for path in folder.iterdir()] == ["new"]
