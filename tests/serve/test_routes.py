"""Jobs: what they cost is counted like what a chat costs."""

import time
from unittest.mock import Mock

import httpx
import pytest
from serving import KEY, made

from yantai.serve.desk import Desk
from yantai.serve.local import LocalBackend
from yantai.serve.meter import Meter


def until(condition, seconds=30):
    """Waits for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


@pytest.mark.parametrize("do", ["translate", "summarize"])
def test_what_is_rewritten_is_counted_and_claimed(run_server, tokenizer, do):
    told, meter = [], Meter(10_000, lambda: 0.0)
    claimed = Mock(side_effect=meter.claim)
    meter.claim = claimed
    backend = LocalBackend(Desk(made(tokenizer), about={"task": do}))
    server = run_server({"small": backend}, meter=meter, tell=told.append)
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "small", "input": ["Ivan lost a goose.", "早上好。"]}
    table = httpx.post(f"{server.url}/v1/{do}", json=body, headers=headers, timeout=60).json()
    counts = table["usage"]
    read, said = counts["prompt_tokens"], counts["completion_tokens"]
    assert said > 0 and counts["total_tokens"] == read + said
    assert [isinstance(row["result"], str) for row in table["data"]] == [True, True]
    assert meter._bucket("tester", 10_000).left == 10_000 - read - said
    claims = claimed.call_args.args[1]
    assert claims >= 2 * backend.facts["answer_length"] >= said
    figures = httpx.get(f"{server.url}/metrics", headers=headers).text
    until(lambda: told)
    assert told[0]["tokens"] == said
    assert f'yantai_tokens_total{{kind="said"}} {said}\n' in figures
