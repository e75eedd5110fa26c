"""Decoding speed at batch 1, and reading of 512 tokens: random Llamas of two shapes, same weights.

Contenders: ours in bfloat16 and packed in 8 and 4 bits; `transformers.generate` in bfloat16 with
its own cache; llama.cpp and onnxruntime-genai where they are installed, llama.cpp in the forms of
as many bits. All greedy. Beside each the share of the measured bandwidth at which its weights
stream: stored bytes of the matrices that a token needs, times tokens a second.
"""

import statistics
import tempfile
from pathlib import Path

import torch

from bench.ceilings import bandwidth
from bench.measure import Contender, figures_line, in_turn, ratio_line
from bench.runtimes import genai_step, llama_cpp_step, there

SHAPES = {
    "15M (6 × 288, V 32000)": {
        "vocab_size": 32000, "hidden_size": 288, "intermediate_size": 768,
        "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6,
    },
    "135M (30 × 576, GQA 3, V 49152)": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    },
}  # fmt: skip
PROMPT, NEW = 32, 64
LONG = 512
BITS_A_WEIGHT = {"ours": 16, "ours, 8 bits": 8.5, "ours, 4 bits": 4.5, "transformers": 16,
                 "llama.cpp BF16": 16, "llama.cpp Q8_0": 8.5, "llama.cpp Q4_0": 4.5,
                 "onnxruntime-genai int4": 5}  # fmt: skip
GOALS = (
    ("ours, 8 bits", "llama.cpp Q8_0", 1.2),
    ("ours, 4 bits", "llama.cpp Q4_0", 1.2),
    ("ours, 4 bits", "onnxruntime-genai int4", 1.2),
    ("ours, 8 bits", "transformers", 4.0),
    ("ours", "transformers", 2.5),
    ("ours", "llama.cpp BF16", None),
)


def weights(shape):
    """The same random model for all, by the seed."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **shape, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def prompt_of(shape, count):
    """So many ids, the same for all."""
    dice = torch.Generator().manual_seed(1)
    return torch.randint(3, shape["vocab_size"], (count,), generator=dice).tolist()


def write_folder(shape, folder):
    """A model folder with a tokenizer, in bfloat16."""
    from yantai.text.tokenizer import Tokenizer
    from yantai.text.village import Village

    weights(shape).save_pretrained(folder)
    rows = Village(seed=3).documents(200)
    Tokenizer.train((row["text"] for row in rows), 2048).save(Path(folder))


def ours(folder, bits, prompt, new):
    """Ours, as its weights are or packed."""
    from yantai.adapt.packed import Form
    from yantai.adapt.quantize import quantize
    from yantai.families.folder import load_folder
    from yantai.infer.generate import generate_ids, prepare
    from yantai.infer.settings import Generation
    from yantai.life.quantize import GROUPS

    model, _, _ = load_folder(Path(folder))
    if bits:
        quantize(model, Form(bits, GROUPS[bits]))
    prepare(model)
    return lambda: generate_ids(model, [prompt], Generation(max_new_tokens=new))


def hugging_face(folder, prompts, new):
    """`transformers.generate`, one prompt after the other."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    rows = torch.tensor(prompts)

    @torch.inference_mode()
    def step():
        for row in rows:
            model.generate(row[None], max_new_tokens=new, min_new_tokens=new, do_sample=False)

    return step


def contenders(folder, prompt, new):
    """Name → (make, arguments), of those that are there."""
    makers = {
        "ours": (ours, (folder, 0, prompt, new)),
        "ours, 8 bits": (ours, (folder, 8, prompt, new)),
        "ours, 4 bits": (ours, (folder, 4, prompt, new)),
        "transformers": (hugging_face, (folder, [prompt], new)),
    }
    if there("llama_cpp"):
        for kind in ("BF16", "Q8_0", "Q4_0"):
            makers[f"llama.cpp {kind}"] = (llama_cpp_step, (folder, kind, [prompt], new))
    if there("onnxruntime_genai"):
        makers["onnxruntime-genai int4"] = (genai_step, (folder, prompt, new))
    return makers


def timed(makers, units, rounds, repeats=1):
    """Figures of all, in turn; a contender may count for other units than the rest."""
    runs = {
        key: Contender(make, given, *(own or (units,)), repeats)
        for key, (make, given, *own) in makers.items()
    }
    figures = in_turn(runs, rounds)
    for contender in runs.values():
        contender.close()
    return figures


def streamed(shape):
    """Weights of matrices that one token needs, the head's included."""
    dim, heads = shape["hidden_size"], shape["num_attention_heads"]
    kept = 2 + 2 * shape["num_key_value_heads"] / heads
    block = kept * dim * dim + 3 * dim * shape["intermediate_size"]
    return shape["num_hidden_layers"] * block + shape["vocab_size"] * dim


def main(rounds=5):
    """Lines of figures and ratios, as they come."""
    peak = bandwidth()
    for name, shape in SHAPES.items():
        repeats = 10 if shape["hidden_size"] < 500 else 2
        with tempfile.TemporaryDirectory() as folder:
            write_folder(shape, folder)
            writing = contenders(folder, prompt_of(shape, PROMPT), NEW)
            reading = contenders(folder, prompt_of(shape, LONG), 1)
            written = timed(writing, NEW, rounds, repeats)
            yield from said_of_writing(name, shape, written, peak)
            yield from said_of_reading(name, timed(reading, LONG, rounds, repeats))


def said_of_writing(name, shape, figures, peak):
    """Tokens a second, the share of the bandwidth, ratios."""
    for key, row in figures.items():
        share = statistics.median(row) * streamed(shape) * BITS_A_WEIGHT[key] / 8 / peak
        line = figures_line(f"{name}: {key}", row, "tok/s")
        yield f"{line}  {share:4.0%} of {peak / 1e9:.0f} GB/s"
    for one, other, goal in GOALS:
        if other in figures:
            yield ratio_line(f"{name}: {one} / {other}", figures[one], figures[other], goal)


def said_of_reading(name, figures):
    """Tokens a second, and ours over the best of the others."""
    yield from (figures_line(f"{name}: read {LONG}, {key}", row, "tok/s")
                for key, row in figures.items())  # fmt: skip
    best = max((key for key in figures if key[:4] != "ours"), key=lambda key: max(figures[key]))
    for key in (key for key in figures if key[:4] == "ours"):
        title = f"{name}: read {LONG}, {key} / {best}"
        yield ratio_line(title, figures[key], figures[best], 1.2)
