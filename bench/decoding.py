"""Decoding speed at batch 1 in bfloat16, random Llama weights of two shapes, same weights.

Contenders: ours, the same packed in 8 and 4 bits, and `transformers.generate` (its own cache),
greedy. The peer is in bfloat16 whatever ours is in.
"""

import tempfile
from pathlib import Path

import torch

from bench.measure import Contender, figures_line, in_turn, ratio_line

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


def weights(shape):
    """The same random model for both, by the seed."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **shape, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    return model, torch.randint(0, shape["vocab_size"], (1, PROMPT))


def ours(shape, bits=0):
    from yantai.adapt.packed import Form
    from yantai.adapt.quantize import quantize
    from yantai.families.folder import load_folder
    from yantai.infer.generate import generate_ids, prepare
    from yantai.infer.settings import Generation
    from yantai.life.quantize import GROUPS

    theirs, prompt = weights(shape)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        model, _, _ = load_folder(Path(folder))
    if bits:
        quantize(model, Form(bits, GROUPS[bits]))
    prepare(model)
    return lambda: generate_ids(model, prompt.tolist(), Generation(max_new_tokens=NEW))


def hugging_face(shape):
    model, prompt = weights(shape)

    @torch.inference_mode()
    def step():
        model.generate(prompt, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)

    return step


def main(rounds=5):
    lines = []
    for name, shape in SHAPES.items():
        makers = {
            "ours": (ours, (shape,)),
            "ours, 8 bits": (ours, (shape, 8)),
            "ours, 4 bits": (ours, (shape, 4)),
            "transformers": (hugging_face, (shape,)),
        }
        runs = {key: Contender(make, given, NEW, 1) for key, (make, given) in makers.items()}
        figures = in_turn(runs, rounds)
        for contender in runs.values():
            contender.close()
        lines += [figures_line(f"{name}: {key}", row, "tok/s") for key, row in figures.items()]
        theirs = figures["transformers"]
        for key, goal in (("ours", 2.5), ("ours, 8 bits", 4.0), ("ours, 4 bits", None)):
            lines.append(ratio_line(f"{name}: {key} / transformers", figures[key], theirs, goal))
        for key in ("ours, 8 bits", "ours, 4 bits"):
            lines.append(ratio_line(f"{name}: {key} / ours", figures[key], figures["ours"], None))
    return lines
