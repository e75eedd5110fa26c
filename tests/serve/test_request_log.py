"""A line for each request; nobody who does not read them stops an answer."""

import json
import logging
import socket
import threading
import time

import httpx
from serving import KEY, Stub, made

from yantai.serve.desk import Desk
from yantai.serve.local import LocalBackend
from yantai.serve.log import MOST_WAITING, RequestLog


def wait_for(told, count):
    """A request has its line a moment after its answer."""
    until = time.monotonic() + 30
    while len(told) < count:
        assert time.monotonic() < until, "the line does not come"
        time.sleep(0.01)


def test_what_watchers_ask_is_told_only_where_it_is_wrong():
    lines = []
    log = RequestLog(write=lines.append)
    for path, status in (("/healthz", 200), ("/readyz", 503), ("/v1/models", 200)):
        log.tell({"path": path, "status": status})
    log.close()
    assert [json.loads(line)["path"] for line in lines] == ["/readyz", "/v1/models"]
    few = []
    log = RequestLog(errors_only=True, write=few.append)
    log.tell({"path": "/v1/models", "status": 200})
    log.tell({"path": "/v1/models\r\nforged", "status": 404})
    log.close()
    assert len(few) == 1 and "\n" not in few[0] and json.loads(few[0])["status"] == 404


def test_a_reader_who_has_stopped_loses_lines_and_stops_nobody():
    held, lines = threading.Event(), []

    def write(line):
        held.wait(30)
        lines.append(line)

    log = RequestLog(write=write)
    for number in range(MOST_WAITING + 50):
        log.tell({"path": "/", "status": 200, "number": number})
    assert 0 < log.lost <= 50
    lost = log.lost
    held.set()
    while log._lines.qsize():
        pass
    log.tell({"path": "/last", "status": 200})
    log.close()
    assert json.loads(lines[-1])["lines_lost"] == lost and log.lost == 0


def test_a_line_says_who_asked_what_and_how_long_it_took_and_not_what_was_said(
    run_server, tokenizer
):
    told = []
    server = run_server({"small": LocalBackend(Desk(made(tokenizer)))}, tell=told.append)
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "small", "prompt": "A secret", "max_tokens": 3, "seed": 5}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        usage = client.post("/v1/completions", json=body).json()["usage"]
        assert client.post("/v1/completions", json=body | {"stream": True}).status_code == 200
        assert client.post("/v1/completions", json=body | {"n": 0}).status_code == 400
    assert httpx.get(server.url + "/v1/models").status_code == 401
    wait_for(told, 4)
    assert [row["status"] for row in told] == [200, 200, 400, 401]
    for row in told[:2]:
        assert row["tokens"] == usage["completion_tokens"] > 0
        assert row["prompt_tokens"] == usage["prompt_tokens"] > 0
        assert row["key"] and row["ms"] >= 0
    assert "key" not in told[3] and "secret" not in json.dumps(told)


def test_what_is_no_http_has_its_line_and_uvicorn_is_silent(run_server):
    told, foreign = [], []
    server = run_server({"small": Stub("complete")}, tell=told.append)
    handler = logging.Handler(logging.WARNING)
    handler.emit = foreign.append
    logger = logging.getLogger("uvicorn.error")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    upgrade = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\n"
    try:
        asked = (b"no http\r\n\r\n", f"{upgrade}Upgrade: websocket\r\n\r\n".encode())
        for number, sent in enumerate(asked, 1):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
                peer = client.getsockname()
                client.sendall(sent)
                while client.recv(65_536):
                    pass
                wait_for(told, number)
                told[-1]["ours"] = told[-1].get("peer") == "{}:{}".format(*peer)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert not foreign
    assert [(row["path"], row["status"], row["ours"]) for row in told] == [
        ("", 400, True), ("/healthz", 200, False),
    ]  # fmt: skip
    assert told[0]["code"] == "invalid_http"
