"""Decoding on a GPU: random Llamas of three shapes, the same weights for all, all greedy, in turn.

Contenders: ours in bfloat16 and packed in 8 and 4 bits, alone and sixteen at once through the
engine; `transformers.generate` in bfloat16; the same with the weights that torchao packs, where it
is installed. All in one process: a GPU has one queue, and nothing runs beside the one that is
timed. Beside each the share of the measured bandwidth at which its weights stream.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from bench.decoding import BITS_A_WEIGHT, LONG, SHAPES, prompt_of, streamed
from bench.measure import figures_line, in_turn, ratio_line

LARGE = {
    "1.2B (16 × 2048, GQA 4, V 32000)": {
        "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
}  # fmt: skip
PROMPT, NEW, CLIENTS = 32, 64, 16


def bandwidth(size=2**32):
    """Bytes a second of a copy, read and written, the best of five."""
    here, there = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    here.random_(0, 255)
    best = 0.0
    for _ in range(5):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        there.copy_(here)
        ended.record()
        torch.cuda.synchronize()
        best = max(best, 2 * size / (began.elapsed_time(ended) / 1e3))
    return best


def written(shape, folder):
    """The folder that all read, and the network of `transformers`."""
    import transformers

    from yantai.text.tokenizer import Tokenizer
    from yantai.text.village import Village

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **shape, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(folder)
    rows = Village(seed=3).documents(200)
    Tokenizer.train((row["text"] for row in rows), 2048).save(Path(folder))
    return model


def ours(folder, bits):
    """The model, as it is decoded."""
    from yantai.adapt.packed import Form
    from yantai.adapt.quantize import quantize
    from yantai.families.folder import load_folder
    from yantai.infer.generate import prepare
    from yantai.life.quantize import GROUPS

    model, _, _ = load_folder(Path(folder), device=torch.device("cuda"))
    if bits:
        quantize(model, Form(bits, GROUPS[bits]))
    return prepare(model)


def generating(model, prompt, new):
    """One prompt, by `generate_ids`."""
    from yantai.infer.generate import generate_ids
    from yantai.infer.settings import Generation

    return lambda: generate_ids(model, [prompt], Generation(max_new_tokens=new))


def serving(model, prompts, new):
    """All prompts at once, by an engine that stays."""
    from yantai.infer.engine import Engine
    from yantai.infer.request import Request
    from yantai.infer.settings import Generation

    engine = Engine(model, slots=len(prompts), prefix_bytes=0)

    def step():
        asked = [Request(each, Generation(max_new_tokens=new)) for each in prompts]
        engine.submit_all(asked)
        for each in asked:
            each.wait(120)

    return step


def hugging_face(model, prompts, new):
    """`transformers.generate`, all prompts in one batch."""
    rows = torch.tensor(prompts, device="cuda")

    @torch.inference_mode()
    def step():
        model.generate(rows, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        torch.cuda.synchronize()

    return step


def torchao_of(folder, bits):
    """The network of `transformers` with weights that torchao has packed; None without it."""
    try:
        import transformers
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        kind = torch.bfloat16
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=kind).cuda().eval()
        form = {"int4_packing_format": "tile_packed_to_4d"}
        quantize_(model, Int8WeightOnlyConfig() if bits == 8 else
                  Int4WeightOnlyConfig(group_size=32, **form))  # fmt: skip
    except Exception as error:
        print(f"torchao, {bits} bits: not compared ({type(error).__name__}: {error})", flush=True)
        return None
    return model


def timed(steps, units, rounds):
    """Units a second of all, in turn; each was called before, so that what is made once is made."""

    def one(step):
        began = time.perf_counter()
        step()
        return units / (time.perf_counter() - began)

    for name, step in steps.items():
        began = time.perf_counter()
        step()
        step()
        print(f"   {name}: first two calls {time.perf_counter() - began:.1f} s", flush=True)
    return in_turn({name: lambda step=step: one(step) for name, step in steps.items()}, rounds)


def compared(name, shape, rounds, peak, *, with_torchao):
    """Lines of one shape."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = written(shape, folder)
        models = {"ours": 0, "ours, 8 bits": 8, "ours, 4 bits": 4}
        models = {key: ours(folder, bits) for key, bits in models.items()}
        prompt = prompt_of(shape, PROMPT)
        steps = {key: generating(model, prompt, NEW) for key, model in models.items()}
        steps["transformers"] = hugging_face(theirs, [prompt], NEW)
        for bits in (8, 4) if with_torchao else ():
            packed = torchao_of(folder, bits)
            if packed is not None:
                steps[f"transformers, torchao {bits} bits"] = hugging_face(packed, [prompt], NEW)
        figures = timed(steps, NEW, rounds)
        for key, row in figures.items():
            bits = BITS_A_WEIGHT.get(key, 8 if " 8 " in key else 4.5)
            share = statistics.median(row) * streamed(shape) * bits / 8 / peak
            yield f"{figures_line(f'{name}: {key}', row, 'tok/s')}  {share:4.0%} of bandwidth"
        for key in (key for key in figures if key != "transformers"):
            title = f"{name}: {key} / transformers"
            yield ratio_line(title, figures[key], figures["transformers"], None)

        long = prompt_of(shape, LONG)
        steps = {"ours": generating(models["ours"], long, 1),
                 "transformers": hugging_face(theirs, [long], 1)}  # fmt: skip
        figures = timed(steps, LONG, rounds)
        for key, row in figures.items():
            yield figures_line(f"{name}: read {LONG}, {key}", row, "tok/s")

        many = [prompt_of(shape, PROMPT)[number:] + prompt[:number] for number in range(CLIENTS)]
        steps = {f"{key}, engine": serving(model, many, NEW) for key, model in models.items()}
        steps["transformers, one batch"] = hugging_face(theirs, many, NEW)
        figures = timed(steps, NEW * CLIENTS, rounds)
        for key, row in figures.items():
            yield figures_line(f"{name}: {CLIENTS} at once, {key}", row, "tok/s")


def main(rounds=5):
    """Lines of figures and ratios, as they come."""
    if not torch.cuda.is_available():
        yield "no CUDA device, so nothing of one is measured"
        return
    peak = bandwidth()
    yield f"{torch.cuda.get_device_name()}: {peak / 1e12:.2f} TB/s by a copy"
    for name, shape in (SHAPES | LARGE).items():
        yield from compared(name, shape, rounds, peak, with_torchao=name in LARGE)


if __name__ == "__main__":
    for line in main():
        print(line, flush=True)
