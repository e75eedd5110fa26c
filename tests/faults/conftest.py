import pytest

from yantai.life.selftest_runs import Forks, write_corpus


@pytest.fixture(scope="session")
def forks():
    with Forks() as server:
        yield server


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("documents") / "documents.jsonl")
