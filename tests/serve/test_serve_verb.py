"""`yantai serve` as a person starts it: it opens, answers, drains and ends; and what it refuses."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

import openai
import pytest
from serving import KEY, made

from yantai.cli import main


@pytest.fixture
def folder(tokenizer, tmp_path):
    made(tokenizer, max_positions=4096).save(tmp_path / "small" / "model")
    return tmp_path / "small" / "model"


@pytest.fixture
def started(folder, tmp_path):
    """A server of its own process, on a free port, with a key."""
    (tmp_path / "keys").write_text(f"# of tests\n{KEY}\n")
    command = [sys.executable, "-m", "yantai.cli", "serve", str(folder), "--port", "0"]
    command += ["--api-key-file", str(tmp_path / "keys"), "--dtype", "float32", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    found = re.match(r"page (http://127\.0\.0\.1:\d+)/ · API (\S+)/v1 · models: small\n", line)
    assert found, line + process.stderr.read()
    yield process, found[1]
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.mark.slow
def test_it_answers_and_ends_after_its_open_answers(started):
    process, url = started
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    assert [model.id for model in client.models.list()] == ["small"]
    asked = {"model": "small", "prompt": "One", "temperature": 0, "max_tokens": 5}
    first = client.completions.create(**asked)
    assert first.usage.completion_tokens == 5
    assert client.completions.create(**asked).choices[0].text == first.choices[0].text
    with urlopen(url + "/") as page:
        assert b"<html" in page.read()
        assert "script-src 'self'" in page.headers["content-security-policy"]

    # an answer is on its way when the server is asked to end: it comes whole
    body = json.dumps(
        asked | {"max_tokens": 600, "stream": True, "logit_bias": dict.fromkeys("01234", -100)}
    )
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    stream = urlopen(Request(f"{url}/v1/completions", body.encode(), headers))
    assert stream.readline().startswith(b"data: {")
    process.send_signal(signal.SIGTERM)
    rest: list[bytes] = []
    reader = threading.Thread(target=lambda: rest.extend(stream))
    reader.start()
    reader.join(60)
    assert [line for line in rest if line.strip()][-1] == b"data: [DONE]\n"
    assert process.wait(30) == 0
    with pytest.raises(OSError):
        urlopen(url + "/healthz", timeout=2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read in /proc")
def test_its_worker_ends_with_it_even_when_it_is_killed(started):
    process, _ = started
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end, "the worker is still there"
        time.sleep(0.1)


def test_what_it_refuses(folder, tmp_path, capsys):
    def refused(*flags):
        assert main(["serve", str(folder), *map(str, flags)]) in (2, 3, 4)
        return capsys.readouterr().err

    assert "without a key" in refused("--host", "0.0.0.0")
    assert "no such file" in refused("--api-key-file", tmp_path / "none")
    (tmp_path / "bad").write_text("short\n")
    assert "bad:1" in refused("--api-key-file", tmp_path / "bad")
    (tmp_path / "packed").write_bytes(b"\xff\xfe\x00bad")
    assert "error[E304]" in refused("--api-key-file", tmp_path / "packed")
    assert "two are called 'small'" in refused(folder)
    assert "nothing can listen there" in refused("--host", "::1%nowhere", "--port", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = refused("--port", taken.getsockname()[1])
    assert "nothing can listen there" in told and "--port" in told


def test_a_file_without_a_key_does_not_open_the_door(folder, tmp_path, capsys):
    (tmp_path / "none").write_text("# nothing yet\n")
    assert main(["serve", str(folder), "--api-key-file", str(tmp_path / "none")]) == 2
    assert "holds no key" in capsys.readouterr().err
