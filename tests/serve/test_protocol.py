"""What is said in HTTP itself, and in figures: paths, methods, lengths, names."""

import json
import socket

import httpx
from serving import KEY

from yantai.serve.desk import Desk
from yantai.serve.local import LocalBackend


def test_lengths_that_are_told_twice_and_what_is_no_http(server):
    both = (f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: application/json\r\nContent-Length: 4\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")  # fmt: skip
    for sent, code in ((both, "two_lengths"), ("no such thing\r\n\r\n", "invalid_http")):
        said = b""
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(sent.encode())
            while piece := client.recv(65536):
                said += piece
        head, _, body = said.partition(b"\r\n\r\n")
        assert b" 400 " in head and b"connection: close" in head.lower()
        assert json.loads(body)["error"]["code"] == code


def test_a_target_that_names_the_server_is_answered(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        head = f"Host: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {KEY}\r\n"
        target = f"http://127.0.0.1:{server.port}/v1/models"
        client.sendall(f"GET {target} HTTP/1.1\r\n{head}\r\n".encode())
        assert b" 200 " in client.recv(65_536)


def test_figures_name_routes_and_no_strangers_paths(server):
    headers = {"authorization": f"Bearer {KEY}"}
    for number in range(5):
        httpx.get(f"{server.url}/v1/none/{number}", headers=headers)
    httpx.get(f"{server.url}/v1/models/small", headers=headers)
    httpx.get(f"{server.url}/v1/models")
    text = httpx.get(f"{server.url}/metrics", headers=headers).text
    assert 'yantai_requests_total{path="other",status="404"} 5' in text
    assert 'yantai_requests_total{path="other",status="401"} 1' in text
    assert 'yantai_requests_total{path="/v1/models/{name}",status="200"} 1' in text
    assert 'yantai_request_seconds_bucket{path="other",le="+Inf"} 6' in text
    assert "none" not in text


def test_other_paths_and_methods_are_no_secret_doors(server):
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers) as browser:
        for path, method, status in (
            ("/v1/nothing", "GET", 404), ("/v1/chat/completions", "GET", 405),
            ("/v1/models", "DELETE", 405), ("/healthz", "GET", 200), ("/readyz", "GET", 200),
        ):  # fmt: skip
            answer = browser.request(method, path)
            assert answer.status_code == status
            if status >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "access-control-allow-origin" not in browser.get("/healthz").headers
        text = browser.get("/metrics").text
        assert 'yantai_requests_total{path="/healthz",status="200"} 2' in text
        assert 'yantai_engine_active{model="small"} 0' in text
        assert 'yantai_engine_cache_bytes{model="small"} ' in text


def test_a_name_in_chinese_is_one_for_those_who_read_the_figures(run_server, model):
    server = run_server({'村里"': LocalBackend(Desk(model))})
    text = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    assert 'yantai_engine_steps{model="村里\\""} 0' in text


def test_what_is_no_http_behind_an_answer_is_no_fault(server, caplog):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: evil\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        assert b" 403 " in client.recv(65536)
        client.sendall(b"ZZ\r\n")
        while client.recv(65536):
            pass
    assert not caplog.records
