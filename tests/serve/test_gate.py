"""The gate: names, keys, sizes, deadlines and rates, each answered as OpenAI's client expects."""

import asyncio
import codecs
import json
from urllib.parse import unquote

import pytest

from yantai.base.errors import DataError
from yantai.serve.gate import LOOPBACK, Gate, Limits, hashed, read_keys
from yantai.serve.meter import Meter

KEY = "sk-yantai-0123456789abcdef"
KEYS = {hashed(KEY): "me"}
LIMITS = Limits(body_bytes=1000, body_seconds=0.05)


PATHS = ["/v1/models", "/metrics", "//v1/models", "/v1/../v1/models", "/healthz/", "/page", "/%2e/",
         "/openapi.json", "/HEALTHZ", "/healthz?x"]  # fmt: skip


async def app(scope, receive, send):
    """Says what it was given."""
    message = await receive()
    body = json.dumps({"path": scope["path"], "size": len(message["body"]),
                       "key": scope["state"]["key"]}).encode()  # fmt: skip
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(
    gate, path="/v1/models", method="GET", headers=(), body=b"", receive=None, send=None,
    raw_path=b"",
):  # fmt: skip
    """Status, headers and JSON of an answer."""
    sent = []
    given = [(b"host", b"127.0.0.1:8000"), *headers]
    if method == "POST" and not any(name == b"content-type" for name, _ in headers):
        given.append((b"content-type", b"application/json"))

    async def once():
        return {"type": "http.request", "body": body, "more_body": False}

    async def keep(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": given, "raw_path": raw_path}
    asyncio.run(gate(scope, receive or once, send or keep))
    table = json.loads(b"".join(message.get("body", b"") for message in sent[1:]) or b"null")
    return sent[0]["status"], dict(sent[0]["headers"]), table


def gate_of(keys=KEYS, limits=LIMITS, **options):
    return Gate(app, LOOPBACK, keys, limits, **options)


def bearer(key):
    return ((b"authorization", f"Bearer {key}".encode()),)


def test_a_key_opens_and_has_a_name():
    status, _, table = ask(gate_of(), headers=bearer(KEY))
    assert (status, table["key"]) == (200, "me")


@pytest.mark.parametrize(
    "headers",
    [
        (), bearer("wrong"), bearer(""), bearer(KEY[:-1]), bearer(KEY + "x"),
        ((b"authorization", KEY.encode()),), ((b"authorization", b"Basic " + KEY.encode()),),
        bearer(KEY) + bearer(KEY), ((b"x-api-key", KEY.encode()),),
        ((b"authorization", b"Bearer \xff\xfe"),),
    ],
    ids=str,
)  # fmt: skip
def test_without_a_key_nothing_is_open_but_life_signs_and_the_page(headers):
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "ODD"):
        for path in PATHS:
            status, found, table = ask(gate_of(), path, method, headers)
            assert (status, table["error"]["code"]) == (401, "invalid_api_key"), (method, path)
            assert found[b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/page/app.js"])
def test_life_signs_and_the_page_need_no_key_to_be_read(path):
    assert ask(gate_of(), path)[0] == 200
    assert ask(gate_of(), path, "POST")[0] == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"127.0.0.1:8000", 200), (b"localhost", 200), (b"LOCALHOST:9", 200), (b"[::1]:8000", 200),
        (b"[::1]", 200), (b"evil.example", 403), (b"evil.example:8000", 403), (b"a/v1?x", 403),
        (b"127.0.0.1:x", 403), (b"127.0.0.1.evil.example", 403), (b"", 403), (b"\xff", 403),
        (b"localhost:80:80", 403),
    ],
)  # fmt: skip
def test_the_server_answers_to_its_own_names_alone(host, status):
    gate, sent = gate_of(keys={}), []

    async def once():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(message):
        sent.append(message)

    scope = {"type": "http", "path": "/healthz", "method": "GET", "headers": [(b"host", host)]}
    asyncio.run(gate(scope, once, keep))
    assert sent[0]["status"] == status


@pytest.mark.parametrize(
    ("target", "status", "path"),
    [
        (b"http://127.0.0.1:8000/v1/%6dodels", 200, "/v1/models"), (b"HTTP://localhost", 200, "/"),
        (b"https://[::1]:8000/page/app.js", 200, "/page/app.js"),
        (b"http://evil.example/v1/models", 403, None), (b"http:///v1/models", 403, None),
        (b"http://a@127.0.0.1/v1/models", 403, None), (b"http://127.0.0.1.evil/", 403, None),
    ],
)  # fmt: skip
def test_a_target_may_name_the_server(target, status, path):
    told = []
    gate, sent = gate_of(keys={}, tell=told.append), []

    async def once():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(message):
        sent.append(message)

    scope = {"type": "http", "path": unquote(target.decode()), "raw_path": target, "method": "GET",
             "headers": [(b"host", b"127.0.0.1:8000")]}  # fmt: skip
    asyncio.run(gate(scope, once, keep))
    assert sent[0]["status"] == status
    if path:
        assert json.loads(sent[1]["body"])["path"] == path == told[0]["path"]


def test_a_target_with_the_name_of_the_server_opens_no_door():
    for target in (b"http://127.0.0.1/v1/models", b"http://127.0.0.1//page/../v1/models"):
        scope = {"path": target.decode(), "raw_path": target}
        assert ask(gate_of(), **scope)[0] == 401


def test_no_host_or_two_are_refused():
    sent = []

    async def keep(message):
        sent.append(message)

    for headers in ([], [(b"host", b"localhost"), (b"host", b"localhost")]):
        scope = {"type": "http", "path": "/", "method": "GET", "headers": headers}
        asyncio.run(gate_of()(scope, None, keep))
        assert sent[-2]["status"] == 400


def test_a_form_is_no_request():
    """What a page of somebody else could send without asking."""
    for kind in (b"text/plain", b"application/x-www-form-urlencoded", b"", b"multipart/form-data"):
        headers = (*bearer(KEY), (b"content-type", kind))
        assert ask(gate_of(), "/v1/x", "POST", headers)[0] == 400
    json_kind = (*bearer(KEY), (b"content-type", b"Application/JSON; charset=utf-8"))
    assert ask(gate_of(), "/v1/x", "POST", json_kind)[0] == 200


def test_a_large_body_is_refused_by_what_it_says_and_by_what_it_is():
    said = (*bearer(KEY), (b"content-length", b"99999999999"))
    assert ask(gate_of(), "/v1/x", "POST", said)[0] == 413
    status, headers, table = ask(gate_of(), "/v1/x", "POST", bearer(KEY), body=b"x" * 1001)
    assert (status, headers[b"connection"]) == (413, b"close")
    assert "1,000 bytes" in table["error"]["message"]
    assert ask(gate_of(), "/v1/x", "POST", bearer(KEY), body=b"x" * 1000)[2]["size"] == 1000


def test_a_body_that_drips_is_let_go():
    async def drip():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    status, _, table = ask(gate_of(), "/v1/x", "POST", bearer(KEY), receive=drip)
    assert (status, table["error"]["code"]) == (408, "timeout")


def test_tokens_of_a_minute_come_back():
    now = [0.0]
    meter = Meter(60, lambda: now[0])
    gate = gate_of(meter=meter)
    assert ask(gate, method="POST", headers=bearer(KEY))[0] == 200
    meter.used("me", 90)
    status, headers, table = ask(gate, method="POST", headers=bearer(KEY))
    assert (status, table["error"]["code"]) == (429, "rate_limit_exceeded")
    assert headers[b"retry-after"] == b"32"
    now[0] = 32.0
    assert ask(gate, method="POST", headers=bearer(KEY))[0] == 200


def test_what_costs_no_token_is_answered_whatever_was_used():
    meter = Meter(60, lambda: 0.0)
    meter.used("", 1000)
    gate = gate_of(keys={}, meter=meter)
    for path in ("/", "/healthz", "/readyz", "/metrics", "/page/app.js", "/v1/models"):
        assert ask(gate, path)[0] == 200
    assert ask(gate, "/v1/completions", "POST")[0] == 429


def test_a_body_that_nobody_reads_ends_the_connection():
    for length, closes in ((b"100000", True), (b"0", False)):
        given = ((b"content-length", length),)
        status, headers, _ = ask(gate_of(), "/v1/x", "POST", given)
        assert status == 401 and (headers.get(b"connection") == b"close") == closes


@pytest.mark.parametrize("headers", [(), bearer(KEY)])
def test_two_lengths_are_refused_before_anything_else(headers):
    two = ((b"content-length", b"4"), (b"transfer-encoding", b"chunked"))
    status, found, table = ask(gate_of(), "/v1/x", "POST", (*headers, *two))
    assert (status, table["error"]["code"]) == (400, "two_lengths")
    assert found[b"connection"] == b"close"


def test_more_headers_than_anyone_needs_are_refused():
    many = tuple((b"x", b"a") for _ in range(300))
    status, _, table = ask(gate_of(), headers=(*bearer(KEY), *many))
    assert (status, table["error"]["code"]) == (431, "too_many_headers")


def test_keys_are_read_plain_or_hashed():
    own = hashed("another-key-1234567890")
    text = f"# 我们的\n\nme {KEY}\r\n李 sha256:{own}\n{'z' * 20}\nsha256:{own[::-1].upper()}\n"
    expected = {hashed(KEY): "me", own: "李", hashed("z" * 20): "key 5", own[::-1]: "key 6"}
    assert read_keys(text.encode(), "keys") == expected
    assert read_keys(codecs.BOM_UTF8 + KEY.encode(), "keys") == {hashed(KEY): "key 1"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"short", "no key"), (b"me short", "no key"), (b"a b c", "no key"),
        (b"sha256: " + b"a" * 64, "no key"),
        (b"me sha256:abcdef0123456789", "a damaged hash.*64 hex.*got 16 characters"),
        (b"me sha256:" + b"z" * 64, "a damaged hash.*got other characters"),
        (b"SHA256:" + b"a" * 63, "a damaged hash"),
        ("me 密钥-0123456789abcdef".encode(), "a key with characters that"),
        (b"me bad\x000123456789abcdef", "a key with characters that"),
        (b"\xff\xfe\x00bad", "is not UTF-8.*got byte 0xff"),
    ],
)  # fmt: skip
def test_what_is_no_key_is_told_with_its_line(line, words):
    with pytest.raises(DataError, match=f"keys:2: {words}") as refused:
        read_keys(KEY.encode() + b"\n" + line + b"\n", "keys")
    assert refused.value.code == "E304" and "0123456789" not in str(refused.value)
