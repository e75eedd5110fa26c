"""Servers that tests start are stopped."""

import openai
import pytest
from serving import KEY, Running, made

from yantai.serve.desk import Desk
from yantai.serve.local import LocalBackend


@pytest.fixture
def run_server():
    """Starts servers and stops them."""
    begun = []

    def start(backends, **options):
        begun.append(Running(backends, **options))
        return begun[-1]

    yield start
    for server in begun:
        server.stop()


@pytest.fixture(scope="module")
def model(tokenizer):
    return made(tokenizer)


@pytest.fixture
def server(run_server, model):
    return run_server({"small": LocalBackend(Desk(model, slots=4, waiting=8))})


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as opened:
        yield opened
