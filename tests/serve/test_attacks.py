"""A server that strangers attack goes on serving; the attacks see a server that does not."""

import gc
import random
import socket
import threading

import pytest
from serving import KEY, Stub, made

from yantai.life.selftest_attacks import crowd, deaf, leavers, malformed, slow
from yantai.life.selftest_floods import MEASURED, flood, long_prompts, overload
from yantai.life.selftest_requests import Target, spoiled, statuses
from yantai.life.selftest_server import attack_server
from yantai.serve import listener
from yantai.serve.desk import Desk
from yantai.serve.gate import Limits
from yantai.serve.local import LocalBackend


@pytest.fixture
def attacked(run_server):
    """A server with stubs and short deadlines, and how to reach it."""

    def start(backend, **limits):
        server = run_server({"small": backend}, limits=Limits(**limits))
        busy = (lambda: backend.open) if isinstance(backend, Stub) else (lambda: 0)
        return Target(server.port, KEY, "small", figures=busy)

    return start


def stub(**changes):
    return Stub("chat", "complete", "embed", "classify", **changes)


def test_malformed_requests_are_refused_and_the_next_is_served(attacked):
    seen = malformed(attacked(stub()), 300, seed=7)
    assert seen.failures == []
    assert seen.answers["4xx"] > 100 and seen.answers["2xx"] > 5


def test_the_requests_are_many_kinds_and_the_same_for_a_seed():
    target = Target(1, KEY, "small")
    made_twice = [[spoiled(target, random.Random(n)) for n in range(200)] for _ in range(2)]
    assert made_twice[0] == made_twice[1]
    assert len(set(made_twice[0])) > 150
    assert statuses(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 Bad\r\n") == [200, 400]


def test_slow_clients_are_let_go_while_good_ones_are_served(attacked, monkeypatch):
    monkeypatch.setattr(listener, "HEADER_SECONDS", 1.0)
    seen = slow(attacked(stub(), body_seconds=1.5), 200, deadline=20)
    assert seen.failures == []
    assert seen.answers["good_clients"] > 2 and seen.answers["5xx"] == 0


def test_clients_that_never_read_lose_their_places(attacked):
    target = attacked(stub(pieces=["x" * 65_536] * 200), write_seconds=1.0)
    gc.disable()  # a place that is free when rubbish is collected is not free
    try:
        assert deaf(target, 8, deadline=60).failures == []
    finally:
        gc.enable()


def test_clients_that_leave_leave_nothing(attacked):
    backend = stub(pieces=["word "] * 200, pause=0.002)
    seen = leavers(attacked(backend), 100, seed=3)
    assert seen.failures == [] and backend.open == 0
    assert backend.cancelled > 10


def test_nobody_hears_another_one(attacked, tokenizer):
    desk = Desk(made(tokenizer), slots=5, waiting=64)
    seen = crowd(attacked(LocalBackend(desk)), 96)
    assert seen.failures == [] and seen.answers == {"equal": 96}


def test_a_flood_is_answered_or_sent_away(attacked, tokenizer):
    seen = flood(attacked(LocalBackend(Desk(made(tokenizer), slots=2, waiting=4))), 60)
    assert seen.failures == []
    assert seen.answers["2xx"] >= 6 and seen.answers["4xx"] > 20
    assert seen.answers["2xx"] + seen.answers["4xx"] == 60
    assert seen.figures["refused_after_ms"] > 0


def test_what_comes_ten_times_too_fast_is_sent_away(attacked, tokenizer):
    desk = Desk(made(tokenizer), slots=2, waiting=2)
    seen = overload(attacked(LocalBackend(desk)), 40, texts=2)
    assert seen.failures == [] and seen.answers["2xx"] >= 4 and seen.answers["4xx"] > 20
    assert sum(seen.answers.values()) == MEASURED + 40
    assert seen.figures["overload_a_second"] > 0
    assert seen.figures["overload_refused_after_ms"] > 0


def test_prompts_without_end_are_refused_by_their_length(attacked, tokenizer):
    seen = long_prompts(attacked(LocalBackend(Desk(made(tokenizer)))))
    assert seen.failures == [] and seen.answers == {"4xx": 5}
    assert seen.figures["others_waited_ms"] > 0


def test_the_attacks_notice_what_they_look_for():
    """Against a server that answers 500, closes nothing and says something else each time."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    kept = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            connection.settimeout(0.2)
            try:
                connection.recv(1 << 20)
            except OSError:
                continue
            body = f'{{"choices": [{{"text": "{len(kept)}"}}], "usage": 1}}'
            status = "500 Bad" if len(kept) % 2 else "200 OK"
            connection.sendall(f"HTTP/1.1 {status}\r\n\r\n{body}".encode())
            connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    target = Target(listener.getsockname()[1], KEY, "small")
    assert any("answered with 500" in each for each in malformed(target, 10).failures)
    assert crowd(target, 8).failures
    assert any("one of the flood" in each for each in flood(target, 4).failures)
    assert any("no refusal" in each for each in long_prompts(target).failures)
    target.figures = lambda: 1
    assert any("go on" in each for each in deaf(target, 1, deadline=0.1).failures)
    assert any("not let go" in each for each in slow(target, 3, deadline=0.1).failures)
    listener.close()
    for connection in kept:
        connection.close()


@pytest.mark.slow
def test_a_real_server_is_attacked_killed_and_drained(tmp_path):
    found = attack_server(tmp_path, requests=200, clients=20, kills=1, patient=False)
    assert found.pop("failures") == []
    figures = ("refused_after_ms", "others_waited_ms", "overload_a_second")
    assert all(found.pop(name) > 0 for name in figures)
    found.pop("overload_refused_after_ms", None)  # where nothing had to be refused
    assert found == {
        "malformed_requests": found["malformed_requests"], "clients_that_left": 20,
        "questions_in_a_crowd": 200, "long_prompts": 5, "flood": 200, "overload": MEASURED + 40,
        "killed_workers": 1, "drained_streams": 20,
    }  # fmt: skip
    assert found["malformed_requests"] >= 200
