import errno
import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base import files
from yantai.base.errors import StorageError, UsageError
from yantai.base.files import TEMPORARY


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_needs_no_torch():
    program = (
        "import sys, yantai.base.files, yantai.training.store, yantai.life.selftest;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"\x00\xff", b"\x00\xff"),
        ("文字", "文字".encode()),
        ("", b""),
        (lambda file: file.write(b"abc"), b"abc"),
    ],
)
def test_a_file_is_written_whole(tmp_path, content, wanted):
    path = tmp_path / "file"
    files.write_atomic(path, "old")
    files.write_atomic(path, content)
    assert path.read_bytes() == wanted
    assert names(tmp_path) == ["file"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def broken(file):
        file.write(b"half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        files.write_atomic(path, broken)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_need_is_counted_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="expected 6 bytes") as caught:
        files.write_atomic(tmp_path / "file", "文字")
    assert caught.value.code == "E502"
    assert names(tmp_path) == []


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("size", "said"), [(None, "expected more than 3 bytes"), (900, "expected 900 bytes")]
)
def test_what_a_function_had_written_is_the_least_that_is_needed(tmp_path, size, said):
    def write(file):
        file.write(b"abc")
        file.flush()
        full()

    with pytest.raises(StorageError, match=rf"file: no space .*{said}, got [\d,]+ bytes free"):
        files.write_atomic(tmp_path / "file", write, size)
    assert names(tmp_path) == []


def test_a_folder_without_room_names_what_it_had_and_its_own_name(tmp_path):
    final = tmp_path / "model"
    told = pytest.raises(StorageError, match="expected more than 5 bytes")
    with told as caught, files.new_folder(final) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("12345")
        full()
    assert caught.value.where == str(final)
    for write, where in ((files.new_folder, final / "b"), (files.new_file, final)):
        told = pytest.raises(StorageError, match="expected more than 1 bytes")
        with told as caught, write(final) as path:
            place = path / "b" if write is files.new_folder else path
            files.write_atomic(place, lambda file: (file.write(b"1"), file.flush(), full()))
        assert caught.value.where == str(where)
    assert names(tmp_path) == []


def test_a_missing_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="ENOENT"):
        files.write_atomic(tmp_path / "no" / "file", "x")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=values)
@settings(deadline=None, max_examples=50)
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_json_that_is_not_is_told(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StorageError, match="could not be read") as caught:
        files.read_json(tmp_path / "a.json")
    assert caught.value.code == "E503"
    with pytest.raises(StorageError, match="the file is missing"):
        files.read_json(tmp_path / "b.json")


def fill(final, text, name="a"):
    with files.new_folder(final) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / name).write_text(text)


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    final = tmp_path / "deep" / "model"
    with files.new_folder(final) as folder:
        (folder / "a").write_text("1")
        assert not final.exists()
    fill(final, "2", "b")
    assert [path.name for path in final.rglob("*")] == ["inner", "b"]
    assert names(final.parent) == ["model"]


def test_a_folder_that_fails_changes_nothing(tmp_path):
    final = tmp_path / "model"
    fill(final, "old")
    with pytest.raises(KeyError), files.new_folder(final) as folder:
        (folder / "a").write_text("half")
        raise KeyError("no")
    assert (final / "inner" / "a").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_an_error_of_ours_inside_keeps_its_line(tmp_path):
    with pytest.raises(UsageError, match="os error 28"), files.new_folder(tmp_path / "model"):
        raise UsageError("E201", "here", "it says (os error 28) but is ours")


@pytest.mark.parametrize("new_is_there", [True, False])
def test_a_crash_between_the_two_renames_is_mended(tmp_path, new_is_there):
    final = tmp_path / "model"
    fill(final, "old")
    final.rename(tmp_path / f"{TEMPORARY}old-model")
    if new_is_there:
        fill(tmp_path / "other", "new")
        (tmp_path / "other").rename(final)
    files.recover_folder(final)
    assert (final / "inner" / "a").read_text() == ("new" if new_is_there else "old")
    assert names(tmp_path) == ["model"]
    files.recover_folder(final)
    assert names(tmp_path) == ["model"]


def test_leftovers_go_and_nothing_else(tmp_path):
    fill(tmp_path / "model", "x")
    (tmp_path / f"{TEMPORARY}12-file").write_text("half")
    fill(tmp_path / f"{TEMPORARY}13-folder", "half")
    fill(tmp_path / f"{TEMPORARY}old-last", "old")
    (tmp_path / ".tmp").write_text("not ours")
    files.remove_temporaries(tmp_path)
    assert names(tmp_path) == [".tmp", "last", "model"]
    files.remove_temporaries(tmp_path / "missing")


def test_a_removed_folder_loses_its_name_at_once(tmp_path, monkeypatch):
    fill(tmp_path / "step-1", "x")
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)  # killed before
    files.remove_folder(tmp_path / "step-1")
    assert names(tmp_path) == [f"{TEMPORARY}{os.getpid()}-gone-step-1"]
    monkeypatch.undo()
    files.remove_temporaries(tmp_path)
    assert names(tmp_path) == []


def test_new_folders_are_durable_in_their_parents(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "fsync_folder", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    files.make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"E?NOTDIR|EEXIST"):
        files.make_folder(tmp_path / "file" / "c")


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(5, "x"), 5),
        (RuntimeError("I/O error: File too large (os error 27)"), 27),
        (RuntimeError("nothing of the kind"), None),
        (KeyboardInterrupt("os error 5"), None),
    ],
)
def test_an_os_error_is_found_in_what_libraries_raise(error, number):
    found = files.os_error_in(error)
    assert (found and found.errno) == number


@given(content=st.binary(max_size=200))
def test_hashes_are_sha256(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hashed"
    path.write_bytes(content)
    assert files.sha256_file(path) == hashlib.sha256(content).hexdigest()
    assert files.sha256_text("é") == hashlib.sha256("é".encode()).hexdigest()
