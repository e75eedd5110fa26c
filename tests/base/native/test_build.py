import ctypes
import os
import subprocess

import pytest

from yantai.base.native import build

TWICE = '#include "lanes.h"\nextern "C" float twice(float x) { return sum(all(x)) / 8; }\n'
needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler here")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(build.SWITCH, raising=False)
    build.library.cache_clear()
    yield tmp_path / "cache" / "yantai" / "native"
    build.library.cache_clear()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "twice.cpp"
    path.write_text(TWICE)
    return path


@needs_compiler
def test_it_is_compiled_once_and_then_only_loaded(own_cache, source, monkeypatch):
    twice = build.library(source).twice
    twice.restype, twice.argtypes = ctypes.c_float, [ctypes.c_float]
    assert twice(21.0) == 42.0
    (made,) = own_cache.iterdir()
    assert made.name.startswith("twice-")
    assert made.suffix == ".so"
    build.library.cache_clear()
    run = subprocess.run
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: commands.append(a[0]) or run(*a, **k))
    assert build.library(source) is not None
    assert [command[1:] for command in commands] == [["--version"]]


def test_it_can_be_switched_off(own_cache, source, monkeypatch):
    monkeypatch.setenv(build.SWITCH, "0")
    assert build.library(source) is None
    assert not own_cache.exists()


def test_no_compiler_is_no_error(own_cache, source, monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    assert build.library(source) is None


def test_a_compiler_that_fails_is_told_and_survived(
    own_cache, source, tmp_path, monkeypatch, capsys
):
    broken = tmp_path / "c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no such processor >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert build.library(source) is None
    assert "no such processor" in capsys.readouterr().err
    assert list(own_cache.iterdir()) == []


def test_a_folder_that_others_may_write_is_not_trusted(own_cache, source, capsys):
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o777)
    assert build.library(source) is None
    assert "chmod 700" in capsys.readouterr().err
    assert list(own_cache.iterdir()) == []


@needs_compiler
def test_a_changed_source_is_another_library(own_cache, source):
    first = build.compiled(source, build.find_compiler(), build.cache_folder())
    source.write_text(TWICE.replace("/ 8", "/ 4"))
    assert build.compiled(source, build.find_compiler(), build.cache_folder()) != first


@needs_compiler
def test_a_damaged_library_is_no_crash(own_cache, source, capsys):
    path = build.compiled(source, build.find_compiler(), build.cache_folder())
    path.write_bytes(b"\x7fELF, and then nothing")
    assert build.library(source) is None
    assert "torch does its work" in capsys.readouterr().err


def test_the_folder_is_this_users_alone(own_cache):
    folder = build.cache_folder()
    assert folder == own_cache
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.getuid()
