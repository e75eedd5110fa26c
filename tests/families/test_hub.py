"""Models by name: the real client against a small hub on this machine, in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.families.folder import save_folder
from yantai.families.hub import local_folder
from yantai.families.table import family_named

COMMIT = "a" * 40
PROGRAM = """
import json, sys, yantai
from yantai.base.errors import YantaiError
try:
    model = yantai.load(sys.argv[1])
    print(json.dumps({"sum": float(model.logits([1, 2, 3]).sum())}))
except YantaiError as error:
    print(json.dumps({"error": str(error), "code": error.code}))
"""


class Hub:
    """The few answers of the hub that a download needs; it counts, and can break off."""

    def __init__(self, folder):
        self.folder, self.gets, self.break_after = folder, [], None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                path = self.path.split("?")[0]
                if path.startswith("/api/models/own/tiny/revision/"):
                    names = [each.name for each in sorted(hub.folder.iterdir())]
                    facts = {"id": "own/tiny", "sha": COMMIT}
                    facts["siblings"] = [{"rfilename": name} for name in names]
                    return self.send(200, json.dumps(facts).encode(), {}, body)
                if path.startswith("/api/models/own/tiny/tree/"):
                    files = [hub.entry(each) for each in sorted(hub.folder.iterdir())]
                    return self.send(200, json.dumps(files).encode(), {}, body)
                name = path.rsplit("/", 1)[-1]
                if not path.startswith("/own/tiny/resolve/") or not (hub.folder / name).is_file():
                    return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
                content = (hub.folder / name).read_bytes()
                headers = {
                    "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
                    "X-Repo-Commit": COMMIT,
                    "Accept-Ranges": "bytes",
                }
                start = 0
                if self.headers.get("Range"):
                    start = int(self.headers["Range"].split("=")[1].split("-")[0])
                    headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                if body:
                    hub.gets.append((name, start))
                return self.send(206 if start else 200, content[start:], headers, body)

            def send(self, status, content, headers, body):
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if not body:
                    return
                limit = hub.break_after
                if limit is not None and len(content) > limit:
                    self.wfile.write(content[:limit])
                    self.wfile.flush()
                    self.connection.close()
                    return
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def entry(self, path):
        content = path.read_bytes()
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path.name, "size": len(content), "oid": oid}


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    config = ModelConfig(
        vocab_size=8000, dim=512, layers=2, heads=4, kv_heads=4, head_dim=128, hidden=1024,
        max_positions=32, qk_norm=True,
    )  # fmt: skip
    save_folder(build(config, seed=1), family_named("qwen3"), folder)
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    (folder / "modeling_own.py").write_text("raise SystemExit('never fetched')")
    made = Hub(folder)
    yield made
    made.server.shutdown()
    made.server.server_close()


def opened(hub, tmp_path, name="own/tiny", **environment):
    home = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    home |= {"HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_ETAG_TIMEOUT": "5", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        env=os.environ | home | environment, capture_output=True, text=True, cwd=tmp_path,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_name_is_fetched_once_and_opened_without_a_network(hub, tmp_path):
    first = opened(hub, tmp_path)
    assert {name for name, _ in hub.gets} == {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip
    hub.gets.clear()
    assert opened(hub, tmp_path) == first
    assert hub.gets == []
    assert opened(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9") == first
    assert opened(hub, tmp_path, HF_HUB_OFFLINE="1") == first


@pytest.mark.slow
def test_a_line_that_breaks_is_taken_up_where_it_broke(hub, tmp_path):
    hub.break_after = 12_000_000  # of 26 MB; the client keeps whole pieces of 10 MB
    assert "sum" in opened(hub, tmp_path)
    begins = [start for name, start in hub.gets if name == "model.safetensors"]
    assert begins[0] == 0 and begins == sorted(set(begins)) and len(begins) > 1


@pytest.mark.slow
def test_a_hub_that_gives_up_is_one_line(hub, tmp_path):
    hub.break_after = 100_000
    found = opened(hub, tmp_path)
    assert found["code"] == "E206"
    assert "own/tiny" in found["error"] and "\n" not in found["error"]


@pytest.mark.slow
def test_an_unknown_name_is_one_line(hub, tmp_path):
    found = opened(hub, tmp_path, "own/none")
    assert found["code"] == "E206"
    assert "own/none" in found["error"]
    assert "\n" not in found["error"]


@pytest.mark.parametrize(
    "name", ["model", "a/b/c", "../up", "/root/x", "a b/c", "a/b@", ".hidden/x"]
)
def test_what_is_no_name_is_left_a_folder(name):
    assert local_folder(name) == Path(name)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    (tmp_path / "own" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_folder("own/tiny").is_dir()
