import os
import tempfile
from pathlib import Path

import pytest

from yantai.life.selftest_runs import Forks, write_corpus
from yantai.life.selftest_saves import has_strace

# hundreds of saves need no real disk: which calls are made, and in which order, is the same
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def memory():
    """A folder in memory, where an fsync costs nothing."""
    with tempfile.TemporaryDirectory(prefix="yantai-", dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def strace():
    """Skips without strace; in CI (`CI=true`) that is an error."""
    if not has_strace():
        pytest.skip("strace is not installed, or may not trace here")


@pytest.fixture(scope="session")
def forks():
    """A server that has torch in memory and forks a child for each run."""
    with Forks() as server:
        yield server


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """Made-up documents for small runs."""
    return write_corpus(tmp_path_factory.mktemp("documents") / "documents.jsonl")
