"""Files appear whole, or not at all: in a local folder, and in an object store."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from harness.s3 import S3Server
from s3fs.core import S3File, S3FileSystem

from tasks import storage as names
from tasks.errors import SettingsError
from tasks.storage import UNFINISHED, WRITE_BLOCK, Storage, default_folder

fsspec_registry = importlib.import_module("fsspec.registry")  # the package has a dict of that name


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


def test_without_a_setting_files_lie_in_the_users_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == str(tmp_path / "fallthrough" / "files")
    assert Storage("").path("a") == str(tmp_path / "fallthrough" / "files" / "a")
    assert (tmp_path / "fallthrough" / "files").is_dir()
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == str(tmp_path / ".local" / "share" / "fallthrough" / "files")


@pytest.fixture(scope="module")
def s3():
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def object_store(tmp_path, s3, monkeypatch):
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    return Storage(f"s3://bucket{tmp_path}")


@pytest.fixture(params=["storage", "object_store"])
def any_storage(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("written", [0, 3, WRITE_BLOCK + 3])
def test_what_breaks_off_leaves_what_was_there(any_storage, s3, written):
    def break_off(name):
        with any_storage.writing(name) as file:
            file.write(b"x" * written)
            raise FileNotFoundError

    any_storage.write("parts/a", b"old")
    for name in ("parts/a", "parts/b"):
        with pytest.raises(FileNotFoundError):
            break_off(name)
    assert any_storage.read("parts/a", 0, 9) == b"old"
    with pytest.raises(FileNotFoundError):
        any_storage.read("parts/b", 0, 9)
    assert s3.uploads == {}


def test_what_cannot_be_sent_leaves_what_was_there(object_store, monkeypatch):
    object_store.write("parts/a", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(S3File, "_upload_chunk", Mock(side_effect=OSError("no space")))
        for size in (3, WRITE_BLOCK + 3):
            with pytest.raises(OSError, match="no space"):
                object_store.write("parts/a", b"x" * size)
    assert object_store.read("parts/a", 0, 9) == b"old"


def test_a_range_of_a_file_is_read_as_far_as_the_file_goes(any_storage):
    any_storage.write("parts/a", b"0123456789")
    ranges = [any_storage.read("parts/a", *where) for where in ((0, 3), (4, 2), (8, 9), (20, 5))]
    assert ranges == [b"012", b"45", b"89", b""]
    assert any_storage.size("parts/a") == 10


def test_a_file_is_written_anew_as_often_as_one_likes(any_storage):
    for content in (b"longer", b"new", b"new"):
        any_storage.write("parts/a", content)
    with any_storage.open("parts/a") as file:
        assert file.read() == b"new"


def test_a_file_or_a_folder_is_removed_and_may_be_removed_again(any_storage):
    for name in ("parts/x/a", "parts/x/b", "parts/y/a"):
        any_storage.write(name, b"x")
    for _ in range(2):
        any_storage.remove("parts/x")
        any_storage.remove("parts/z/nothing")
    with pytest.raises(FileNotFoundError):
        any_storage.read("parts/x/a", 0, 1)
    assert any_storage.read("parts/y/a", 0, 1) == b"x"


@pytest.mark.parametrize("ask", [lambda s: s.read("a", 0, 1), lambda s: s.open("a")])
def test_what_is_not_there_says_so_wherever_it_is_not(any_storage, ask):
    with pytest.raises(FileNotFoundError):
        ask(any_storage)


def test_an_object_store_has_nothing_unfinished_to_clear(tmp_path):
    Storage(f"memory:/{tmp_path}").clear(0)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("cat_file", lambda s: s.read("a", 0, 1)),
        ("open", lambda s: s.open("a")),
        ("open", lambda s: s.write("a", b"x")),
        ("rm", lambda s: s.remove("a")),
    ],
)
def test_what_an_object_stores_own_client_raises_is_an_error_of_the_system(
    tmp_path, monkeypatch, method, call
):
    class ClientError(Exception):
        """As boto's: no OSError."""

    def broken(*_, **__):
        raise ClientError("SlowDown")

    storage = Storage(f"memory:/{tmp_path}")
    monkeypatch.setattr(storage._fs, method, broken)
    with pytest.raises(OSError, match="ClientError: SlowDown") as raised:
        call(storage)
    assert isinstance(raised.value.__cause__, ClientError)


def test_the_names_of_a_batchs_files_do_not_collide():
    batch = "batch_1"
    kinds = ("output", "error")
    made = [
        names.content_name("file-1"),
        names.custom_ids_name(batch),
        *(names.part_name(batch, stem, kind) for stem in ("0", "1") for kind in kinds),
        *(names.part_name(batch, names.partial_stem(0), kind) for kind in kinds),
        *(names.content_name(names.joined_name(batch, kind)) for kind in kinds),
    ]
    assert len(set(made)) == len(made)
    parts = [name for name in made if Path(names.parts_folder(batch)) in Path(name).parents]
    assert len(parts) == 6
    assert names.joined_name(batch, "output") == "file-1-output"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("nothing://id:hunter2@bucket", "it is no folder, and no URL that fsspec knows"),
        ("/proc/nothing/here", "the folder cannot be made: No such file or directory"),
        (
            "hdfs://id:hunter2@bucket",
            "a package is missing: install the one that has the Python module pyarrow",
        ),
        ("github://id:hunter2@bucket", "the folder cannot be made: its storage refuses it"),
    ],
)
def test_what_files_cannot_lie_in_is_told_in_one_line(url, fault):
    with pytest.raises(SettingsError, match=f"^FALLTHROUGH_FILES_URL: {fault}") as error:
        Storage(url)
    assert "hunter2" not in str(error.value)
    assert str(error.value).isprintable()


def test_a_package_that_we_have_an_extra_for_is_named_by_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(fsspec_registry._registry, "s3", raising=False)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(SettingsError, match=r"a package is missing: pip install '\.\[s3\]'"):
        Storage("s3://bucket")


@pytest.mark.parametrize("where", ["storage", "object_store"])
def test_a_defect_of_who_writes_is_no_error_of_the_storage(where, request):
    place = request.getfixturevalue(where)
    with pytest.raises(KeyError), place.writing("parts/a"):
        raise KeyError


@pytest.mark.parametrize(
    ("method", "mode", "call"),
    [
        ("_fetch_range", "rb", lambda file: file.read()),
        ("_fetch_range", "rb", list),
        ("_upload_chunk", "wb", lambda file: file.write(b"x" * (WRITE_BLOCK + 1))),
    ],
)
def test_what_an_object_stores_own_client_raises_later_is_an_error_of_the_system_too(
    object_store, monkeypatch, method, mode, call
):
    class ClientError(Exception):
        """As boto's: no OSError."""

    object_store.write("parts/a", b"x")
    monkeypatch.setattr(S3File, method, Mock(side_effect=ClientError("SlowDown")))
    file = object_store.open("parts/a", mode)
    with pytest.raises(OSError, match="SlowDown"):
        call(file)
    file.sent.closed = True
