"""Serving on a CPU: many clients at once, what the server costs beside the engine, what it keeps.

Contenders, random Llama weights, greedy, 32 tokens read and 64 written for each of 16 clients: the
engine, in bfloat16 and packed in 8 bits, and drawing its tokens (temperature 0.8, top-p 0.95); the
same behind `yantai serve` and its HTTP; `transformers.generate`, one after the other; llama.cpp
with all sixteen in one batch, without a server. All ask for as much and llama.cpp ends all at once,
so that its round is what each of its clients waits; of the engine 19 of 20 are waited for (p95), in
the same unit. Then, of the server alone: the first token of a prompt of 400 tokens that it has read
before and of one that it has not, the seconds until it is ready, and the memory of its engine's
process.

    python -m bench serving
"""

import atexit
import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from bench.decoding import SHAPES, hugging_face, timed, write_folder
from bench.measure import figures_line, ratio_line
from bench.runtimes import llama_cpp_step, there

CLIENTS, PROMPT, NEW = 16, 32, 64
FEW = 4
"""Clients of `transformers`, which answers one after the other: each of the rest takes as long."""
LONG, TRIES = 400, 9
BARE = (
    "import re, torch, yantai.serve.desk\n"
    "print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"
)


def prompts(vocab, count=CLIENTS, length=PROMPT):
    """Other ones for each client."""
    dice = torch.Generator().manual_seed(1)
    return torch.randint(3, vocab, (count, length), generator=dice).tolist()


def engine(folder, asked, bits=0, **drawn):
    """All at once, without a server; greedy, or drawn as told."""
    from yantai.adapt.packed import Form
    from yantai.adapt.quantize import quantize
    from yantai.infer.engine import Engine
    from yantai.infer.opening import load
    from yantai.infer.request import Request
    from yantai.infer.settings import Generation
    from yantai.life.quantize import GROUPS

    network = load(folder, dtype="auto").network
    if bits:
        quantize(network, Form(bits, GROUPS[bits]))
    made = Engine(network, slots=CLIENTS, prefix_bytes=0)

    def step():
        settings = Generation(max_new_tokens=NEW, **drawn)
        requests = [Request(ids, settings) for ids in asked]
        made.submit_all(requests)
        for request in requests:
            request.wait(600)

    return step


def drawing(folder, asked):
    """The same with the settings of a chat."""
    return engine(folder, asked, temperature=0.8, top_p=0.95)


def slowest(folder, asked):
    """The same, by the seconds after which 19 of 20 clients have their whole answer."""
    from yantai.infer.engine import Engine
    from yantai.infer.opening import load
    from yantai.infer.request import Request
    from yantai.infer.settings import Generation

    made = Engine(load(folder, dtype="auto").network, slots=CLIENTS, prefix_bytes=0)

    def step():
        waits, began = [], time.perf_counter()
        requests = [
            Request(
                ids, Generation(max_new_tokens=NEW),
                on_end=lambda reason: waits.append(time.perf_counter() - began),
            )
            for ids in asked
        ]  # fmt: skip
        made.submit_all(requests)
        for request in requests:
            request.wait(600)
        return statistics.quantiles(waits, n=20, method="inclusive")[-1]

    return step


class Server:
    """`yantai serve` on a free port."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "yantai.cli", "serve", str(folder), "--port", "0"]
        command += ["--slots", str(CLIENTS), "--waiting", "64"]
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline().decode()
        self.ready = time.monotonic() - began
        self.port = int(re.search(r":(\d+)/", line)[1])

    def ask(self, ids, count=NEW, stream=False):
        """Seconds until the first token, and until all are there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        body = {"prompt": ids, "max_tokens": count, "temperature": 0, "stream": stream,
                "logit_bias": {"1": -100}}  # fmt: skip
        began = time.monotonic()
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.readline()
        first = time.monotonic() - began
        answer.read()
        connection.close()
        return first, time.monotonic() - began

    def figure(self, name):
        """Of `/metrics`, once the worker has told it."""
        time.sleep(1.5)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return int(re.search(rf"^yantai_engine_{name}\{{.*\}} (\d+)$", text, re.MULTILINE)[1])

    def memory(self):
        """Bytes of the process that has the model."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        status = Path(f"/proc/{path.read_text().split()[-1]}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024

    def close(self):
        """End it."""
        self.process.terminate()
        self.process.wait(60)


def served(folder, asked):
    """All at once, each over its own connection."""
    server, rounds = Server(folder), itertools.count(3)
    atexit.register(server.close)

    def step():
        first = next(rounds)  # nothing of it was read before, as for the engine
        threads = [threading.Thread(target=server.ask, args=([first, *ids[1:]],)) for ids in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return step


def of_the_server(name, shape, folder):
    """Prefixes, readiness, memory: lines of figures."""
    stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    command = [sys.executable, "-c", BARE]
    bare = int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024
    server = Server(folder)
    try:
        server.ask(prompts(shape["vocab_size"])[0])
        longs = prompts(shape["vocab_size"], TRIES, LONG)
        cold = [server.ask(ids, 1)[0] for ids in longs]
        warm = [server.ask([*ids[:-1], 5], 1)[0] for ids in longs]
        caches, prefixes = server.figure("cache_bytes"), server.figure("prefix_bytes")
        used = server.memory() - bare
    finally:
        server.close()
    known = stored + caches + prefixes
    low, high = statistics.median(cold), statistics.median(warm)
    return [
        f"{name}: first token of {LONG}, cold {1e3 * low:.0f} ms, read before {1e3 * high:.0f} ms: "
        f"{low / high:.1f} × (wanted 5)",
        f"{name}: ready after {server.ready:.1f} s (wanted 3)",
        f"{name}: {used / 1e6:.0f} MB above a bare process; weights {stored / 1e6:.0f}, cache of "
        f"those who are answered {caches / 1e6:.0f}, of what was read before {prefixes / 1e6:.0f}: "
        f"{used / known:.2f} × (wanted 1.3)",
    ]


def main(rounds=5):
    """Ratios in turn, as they come."""
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_folder(shape, folder)
            given = (folder, prompts(shape["vocab_size"]))
            makers = {
                "engine": (engine, given),
                "engine, 8 bits": (engine, (*given, 8)),
                "engine, drawn": (drawing, given),
                "engine, p95": (slowest, given),
                "served": (served, given),
                "transformers": (hugging_face, (folder, given[1][:FEW], NEW), FEW * NEW),
            }
            goals = [("served", "engine", 0.95), ("served", "transformers", 3.0),
                     ("engine, drawn", "engine", None)]  # fmt: skip
            if there("llama_cpp"):
                for ours, kind in (("engine", "BF16"), ("engine, 8 bits", "Q8_0")):
                    made = (llama_cpp_step, (folder, kind, given[1], NEW))
                    makers[f"llama.cpp {kind}"] = made
                    goals.append((ours, f"llama.cpp {kind}", 1.2))
                goals.append(("engine, p95", "llama.cpp BF16", 1.0))
            figures = timed(makers, CLIENTS * NEW, rounds)
            for key, row in figures.items():
                yield figures_line(f"{name}: {key}", row, "tok/s")
            for one, other, goal in goals:
                yield ratio_line(f"{name}: {one} / {other}", figures[one], figures[other], goal)
            yield from of_the_server(name, shape, folder)


if __name__ == "__main__":
    for line in main():
        print(line, flush=True)
