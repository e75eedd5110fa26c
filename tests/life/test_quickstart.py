"""The end of the quickstart: a page, and a terminal that stays quiet."""

import sys
from unittest.mock import Mock

from yantai.life import quickstart as quickstart_module
from yantai.life.settings import Quickstart


def test_its_server_tells_the_terminal_of_errors_alone_and_says_so(tmp_path, monkeypatch):
    said, opened = [], Mock()
    monkeypatch.setattr(quickstart_module, "_live", lambda settings, emit: {})
    monkeypatch.setattr(quickstart_module, "serve", opened)
    monkeypatch.setattr(quickstart_module, "say", said.append)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(sys, stream, Mock(isatty=lambda: True))
    quickstart_module.quickstart(Quickstart(out=tmp_path / "out"), lambda text: None)
    assert opened.call_args.args[0].log == "errors"
    assert "Only requests that fail are told here" in said[-1]
