"""Servers that tests start are stopped."""

import pytest
from serving import Running


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
