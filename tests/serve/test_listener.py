"""Connections within limits, and the end of a server: nothing is cut without a word."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
from contextlib import contextmanager
from unittest.mock import Mock

import httpx
import pytest
from serving import KEY, Stub

from yantai.serve.gate import Limits
from yantai.serve.listener import PatientProtocol
from yantai.serve.run import _bound
from yantai.serve.transport import PatientTransport

HEADERS = {"authorization": f"Bearer {KEY}"}
ASKED = {"prompt": "One", "max_tokens": 4000}


def until(condition, seconds=60):
    """Waits for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


def ask(client, **changes):
    """A question over a connection."""
    body = json.dumps(ASKED | changes).encode()
    head = (f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")  # fmt: skip
    client.sendall(head.encode() + body)


def deaf_client(port, room=2048, path="", **changes):
    """Asks and takes nothing; with a path only for that."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    client.connect(("127.0.0.1", port))
    if path:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    else:
        ask(client, **changes)
    return client


def all_of(client):
    """What comes until the other side closes."""
    said = b""
    while piece := client.recv(65_536):
        said += piece
    return said


def taken_slowly(client, pause):
    """Bytes of a whole answer, and the seconds that it took."""
    size, last, began = 0, b"", time.monotonic()
    while not last.endswith(b"}}"):
        time.sleep(pause)
        last = client.recv(1 << 18)
        assert last, f"closed after {size:,} bytes"
        size += len(last)
    return size, time.monotonic() - began


@contextmanager
def streamed(server):
    """The lines of a stream that has begun."""
    asked = ASKED | {"stream": True}
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=asked, headers=HEADERS
    ) as answer:  # fmt: skip
        lines = answer.iter_lines()
        next(lines)
        yield lines


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_takes_nothing_is_let_go(run_server, stream):
    """In the middle of a stream, and with a whole answer that nobody takes out of the buffer."""
    backend = Stub("complete", pieces=["x" * 65_536] * 200)
    server = run_server({"small": backend}, limits=Limits(write_seconds=0.5))
    with deaf_client(server.port, stream=stream):
        until(lambda: backend.asked)
        until(lambda: not server.server.server_state.connections)
    assert backend.open == 0


@pytest.mark.parametrize("complete", [False, True])
def test_the_rest_of_an_answer_has_its_time_too(complete):
    """Most was taken, a little is left: of an answer that goes on more will come, else not."""
    calls, transport = [], Mock()
    transport.get_write_buffer_size.return_value = 100
    protocol = object.__new__(PatientProtocol)
    protocol.loop, protocol.transport, protocol.flow = Mock(), transport, Mock()
    protocol._patient = transport
    protocol.loop.call_later = lambda seconds, call: calls.append(call) or Mock()
    protocol.cycle = Mock(response_complete=complete)
    protocol.resume_writing()
    assert len(calls) == complete
    for call in calls:
        call()
    assert transport.abort.called == complete


def test_whoever_takes_it_slowly_gets_all(run_server):
    """One write of more than the buffers hold; the time of a write goes by meanwhile."""
    backend = Stub("complete", pieces=["x" * 65_536] * 250)
    server = run_server({"small": backend}, limits=Limits(write_seconds=3.0))
    with deaf_client(server.port, room=1 << 20, stream=False) as client:
        size, seconds = taken_slowly(client, 0.1)
    assert size > 250 * 65_536 and seconds > 3


def test_a_server_that_ends_goes_on_until_nothing_is_open(run_server):
    backend = Stub("complete", pieces=["word "] * 40, pause=0.05)
    server = run_server({"small": backend})
    with streamed(server) as lines:
        server.server.handle_exit(signal.SIGTERM, None)
        server.server._captured_signals.clear()  # they would reach the tests
        ready = httpx.get(f"{server.url}/readyz")
        assert ready.status_code == 503 and "shutting down" in ready.text
        late = httpx.post(f"{server.url}/v1/completions", json=ASKED, headers=HEADERS)
        assert late.status_code == 503 and late.headers["retry-after"] == "5"
        rest = list(lines)
    assert sum("word" in line for line in rest) >= 38 and rest[-2] == "data: [DONE]"
    server.thread.join(30)
    assert not server.thread.is_alive()


def test_after_the_time_of_grace_answers_say_that_they_end(run_server, caplog):
    backend = Stub("complete", pieces=["word "] * 4000, pause=0.02)
    server = run_server({"small": backend}, grace=0.5)
    with caplog.at_level(logging.ERROR), streamed(server) as lines:
        server.server.drain()
        rest = [line.removeprefix("data: ") for line in lines if line]
        server.thread.join(30)
    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2])["error"]["code"] == "shutting_down"
    assert not server.thread.is_alive() and not caplog.records


def test_a_second_signal_ends_at_once_and_quietly(run_server, caplog):
    backend = Stub("complete", pieces=["word "] * 4000, pause=0.02)
    server = run_server({"small": backend}, grace=600)
    with caplog.at_level(logging.ERROR), streamed(server):
        for _ in range(2):
            server.server.handle_exit(signal.SIGTERM, None)
        server.server._captured_signals.clear()
        server.thread.join(30)
    assert not server.thread.is_alive() and not caplog.records


def test_who_is_still_sending_is_told_that_it_ends(run_server):
    server = run_server({"small": Stub("complete")}, grace=0.5)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
        )
        until(lambda: server.server.server_state.tasks)
        server.server.drain()
        said = all_of(client)
    assert b" 503 " in said and b"shutting_down" in said
    server.thread.join(4)
    assert not server.thread.is_alive()


def test_a_question_that_comes_too_late_is_not_read(run_server):
    """Its headers say enough."""
    backend = Stub("complete", pieces=["word "] * 4000, pause=0.02)
    server = run_server({"small": backend}, grace=600)
    with streamed(server), socket.create_connection(("127.0.0.1", server.port)) as client:
        server.server.drain()
        client.settimeout(20)
        client.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n".encode()
        )
        said = all_of(client)
        assert b" 503 " in said and b"shutting down" in said and b"connection: close" in said
        server.server.should_exit = server.server.force_exit = True


def test_a_hundred_streams_are_told_that_they_end(run_server):
    backend = Stub("complete", pieces=["word "] * 40_000, pause=0.02)
    server = run_server({"small": backend}, grace=0.5)
    clients = [deaf_client(server.port, room=1 << 20, stream=True) for _ in range(100)]
    until(lambda: backend.open == 100)
    server.server.drain()
    told = 0
    for client in clients:
        client.settimeout(30)
        said = b""
        while piece := client.recv(1 << 20):
            said += piece
        told += said.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and b"shutting_down" in said
        client.close()
    assert told == 100 and backend.open == 0
    server.thread.join(30)
    assert not server.thread.is_alive()


def test_small_answers_leave_at_once():
    """Or each request over a connection that is kept waits 40 ms for a confirmation (Nagle)."""
    seen = []

    class Noting(asyncio.Protocol):
        def connection_made(self, transport):
            client = transport.get_extra_info("socket")
            seen.append(client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def listen(door):
        server = await asyncio.get_running_loop().create_server(Noting, sock=door)
        reader, writer = await asyncio.open_connection(*door.getsockname()[:2])
        await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()

    with _bound("127.0.0.1", 0) as door:
        asyncio.run(listen(door))
    assert seen == [1]


def test_head_and_body_leave_as_one_piece_and_large_ones_at_once():
    loop, inner = Mock(), Mock()
    inner.is_closing.return_value, inner.get_write_buffer_size.return_value = False, 5
    outer = PatientTransport(inner, loop, lambda: False)
    outer.write(b"head ")
    outer.write(b"")
    outer.write(b"body")
    assert not inner.write.called and outer.get_write_buffer_size() == 14
    (flush,) = (call.args[0] for call in loop.call_soon.call_args_list)
    flush()
    flush()
    inner.write.assert_called_once_with(b"head body")
    outer.write(b"x" * 70_000)
    assert inner.write.call_count == 2 and outer.get_write_buffer_size() == 5
    outer.write(b"last")
    outer.close()
    assert inner.write.call_args.args == (b"last",) and inner.close.called


def refused_while_sending(server, size=50_000_000):
    """A client without a key that sends on and on; what it is told."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n"
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    client.sendall(head.encode())
    return client


def test_who_is_refused_while_sending_reads_why(run_server):
    """A connection that is closed with bytes on their way is reset, and the answer is lost."""
    server = run_server({"small": Stub("complete")})
    with refused_while_sending(server) as client:
        time.sleep(0.2)
        for _ in range(100):
            client.sendall(b"x" * 65_536)
        said = all_of(client)
    assert b" 401 " in said and b"connection: close" in said and b"invalid_api_key" in said


def test_a_body_that_drips_behind_a_refusal_is_not_waited_for(run_server, monkeypatch):
    monkeypatch.setattr("yantai.serve.transport.LINGER_SECONDS", 0.3)
    server = run_server({"small": Stub("complete")})
    with refused_while_sending(server) as client:
        assert b" 401 " in all_of(client)  # our side of it is closed
        client.sendall(b"x")
        until(lambda: not server.server.server_state.connections)


def test_a_pipelined_request_behind_a_refusal_is_not_answered(run_server):
    server = run_server({"small": Stub("complete")})
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    two = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    good = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall((head + two + good).encode())
        said = all_of(client)
    assert said.count(b"HTTP/1.1 ") == 1 and b" 400 " in said and b"two_lengths" in said


def test_where_all_places_are_taken_the_oldest_goes_that_asks_nothing(run_server):
    backend = Stub("complete", pieces=["word "] * 4000, pause=0.02)
    server = run_server({"small": backend}, most=4)
    with streamed(server) as lines:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(9)]
        until(lambda: len(server.server.server_state.connections) == 4)
        for gone in idle[:6]:
            with contextlib.suppress(ConnectionResetError):
                assert gone.recv(1) == b""
        with httpx.Client() as client:
            assert client.get(f"{server.url}/healthz").status_code == 200
        assert "word" in next(line for line in lines if line)  # it goes on
        for each in idle:
            each.close()


def test_who_reads_everything_is_never_let_go(run_server):
    """Answers are gathered for a turn of the loop; that they wait there is nobody's fault."""
    server = run_server({"small": Stub("complete")}, limits=Limits(write_seconds=0.05))
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        began, answers = time.monotonic(), 0
        while time.monotonic() < began + 2:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            said = client.recv(65_536)
            assert b" 200 " in said, f"closed after {answers} answers"
            answers += 1
    assert answers > 40


def test_a_large_answer_behind_a_small_one_is_not_cut(run_server):
    backend = Stub("complete", pieces=["x" * 65_536] * 250)
    server = run_server({"small": backend}, limits=Limits(write_seconds=2.0))
    with deaf_client(server.port, room=1 << 20, path="/healthz") as client:
        assert b" 200 " in client.recv(65_536)
        time.sleep(1.0)
        ask(client, stream=False)
        size, seconds = taken_slowly(client, 0.05)
    assert size > 250 * 65_536 and seconds > 1.5


def test_who_only_sends_what_nobody_reads_goes_first(run_server):
    server = run_server({"small": Stub("complete")}, most=4)
    refused = [refused_while_sending(server) for _ in range(4)]
    for each in refused:
        assert b" 401 " in each.recv(65_536)
    for _ in range(8):  # newcomers are served, though all places are taken
        with httpx.Client() as client:
            assert client.get(f"{server.url}/healthz").status_code == 200
    for each in refused:
        each.close()
