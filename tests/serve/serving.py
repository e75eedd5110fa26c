"""A small model, and a server in a thread."""

import asyncio
import socket
import threading
import time

import torch
import uvicorn

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.families.labels import judging
from yantai.families.table import family_named
from yantai.infer.generate import prepare
from yantai.infer.language_model import LanguageModel
from yantai.serve.backend import LEAVING
from yantai.serve.gate import LOOPBACK, Gate, Limits, hashed
from yantai.serve.listener import HEADER_BYTES, DrainingServer, PatientProtocol
from yantai.serve.meter import Meter
from yantai.serve.routes import Service

KEY = "sk-yantai-0123456789abcdef"


def made(tokenizer, family="llama", job="", **changes):
    """A model that has learned nothing, and says something all the same."""
    config = ModelConfig(**{
        "vocab_size": tokenizer.vocab_size, "dim": 32, "layers": 2, "heads": 2, "kv_heads": 2,
        "head_dim": 16, "hidden": 48, "max_positions": 96,
    } | changes)  # fmt: skip
    core = build(config, seed=1, table="gpt2")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    kind = family_named(family)
    kind = judging(kind, job) if job else kind
    return LanguageModel(prepare(core), kind, tokenizer, frozenset({tokenizer.eos_id}))


class Running:
    """A server in a thread."""

    def __init__(
        self, backends, *, keys=(KEY,), limits=None, grace=5, tell=lambda table: None, meter=None,
        most=1000,
    ):  # fmt: skip
        meter = meter or Meter()
        self.service = Service(backends, meter)

        def told(table):
            self.service.tally.take(table)
            tell(table)

        gate = Gate(
            self.service.app(),
            LOOPBACK,
            {hashed(key): "tester" for key in keys},
            limits or Limits(),
            meter=meter,
            tell=told,
        )
        self.gate = gate
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            gate, http=PatientProtocol.within(gate.limits, most, told), ws="none", lifespan="off",
            access_log=False, log_level="error", h11_max_incomplete_event_size=HEADER_BYTES,
        )  # fmt: skip
        self.server = DrainingServer(config, self.service, grace)
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self.server.serve(sockets=[self.socket])), daemon=True
        )
        self.thread.start()
        until = time.monotonic() + 30
        while not self.server.started:
            assert time.monotonic() < until, "the server does not start"
            time.sleep(0.01)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        for backend in self.service.backends.values():
            backend.desk.close()


class Stub:
    """A backend that says what it was made to say.

    Args:
        refuse: given a question, the error that is its answer, or None.
    """

    def __init__(
        self, *can, pieces=("你好，", "world"), pause=0.0, answers=(), slow=0.0,
        refuse=lambda question: None, **facts,
    ):  # fmt: skip
        self.facts = {"can": list(can), "family": "llama", "shape": "decoder", "task": "",
                      "parameters": 12_345, "weights": "float32", "context": 96,
                      "vocabulary": 1024} | facts  # fmt: skip
        self.pieces, self.pause, self.answers = pieces, pause, list(answers)
        self.slow, self.refuse = slow, refuse
        self.asked, self.cancelled, self.open = [], 0, 0
        self.is_ready, self.figures, self.desk, self.leaving = True, {}, self, False

    def close(self):
        """There is nothing to end."""

    def leave(self):
        """The next piece is an error."""
        self.leaving = True

    async def ask(self, question):
        self.asked.append(question)
        await asyncio.sleep(self.slow)
        if error := self.refuse(question):
            yield {"error": error}
            return
        if question["do"] == "echo":
            yield {"answers": [{"text": "", "rows": None}], "prompt_tokens": 3, "end": "stop"}
            return
        if question["do"] not in ("chat", "complete"):
            yield {"answers": self.answers, "prompt_tokens": 3, "end": "stop"}
            return
        whole = False
        self.open += 1
        try:
            yield {"prompt_tokens": 5}
            for piece in self.pieces:
                await asyncio.sleep(self.pause)
                if self.leaving:
                    yield {"error": LEAVING}
                    return
                yield {"index": 0, "text": piece}
            whole = True
            yield {"index": 0, "end": "stop", "tokens": len(self.pieces), "reused": 2}
        finally:
            self.open -= 1
            self.cancelled += not whole
