"""What llama.cpp itself reads in our files: the same ids and the same logits.

Skipped where it is not installed: it compiles for ten minutes (pip install llama-cpp-python).
"""

import ctypes
import random
import sys
import unicodedata

import numpy as np
import pytest
import torch
from test_gguf import KINDS, model_of

from yantai.families.gguf import write_gguf
from yantai.text.tokenizer import Tokenizer
from yantai.text.village import Village

llama = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
F32, STRINGS = 0, 100_000


@llama.llama_log_callback
def silent(level, text, data):
    pass


class Peer:
    """A file, opened by llama.cpp; its cache in float32."""

    def __init__(self, path, *, vocab_only=False):
        llama.llama_log_set(silent, ctypes.c_void_p())
        settings = llama.llama_model_default_params()
        settings.vocab_only, settings.use_mmap = vocab_only, False
        self.model = llama.llama_model_load_from_file(str(path).encode(), settings)
        assert self.model
        self.vocab = llama.llama_model_get_vocab(self.model)

    def ids(self, text):
        content = text.encode()
        room = (llama.llama_token * (len(content) + 8))()
        count = llama.llama_tokenize(
            self.vocab, content, len(content), room, len(room), False, False
        )
        assert count >= 0
        return list(room[:count])

    def logits(self, ids, vocab_size):
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 128
        settings.type_k = settings.type_v = F32
        settings.flash_attn_type = 0  # off: it would round to half precision
        context = llama.llama_init_from_model(self.model, settings)
        batch = llama.llama_batch_init(len(ids), 0, 1)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        batch.n_tokens = len(ids)
        assert llama.llama_decode(context, batch) == 0
        rows = [
            np.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), (vocab_size,)).copy()
            for place in range(len(ids))
        ]
        llama.llama_batch_free(batch)
        llama.llama_free(context)
        return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_its_logits_are_ours(name, tied, tokenizer, tmp_path):
    """To 1e-6 of their square; to 1e-5 where it looks GELU up in a table of halves (GPT-2)."""
    core, family = model_of(name, tokenizer, tied=tied)
    write_gguf(tmp_path / "m.gguf", core, family, tokenizer, "F32")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, tokenizer.vocab_size, (1, 100), generator=generator)
    with torch.inference_mode():
        ours = core(ids)[0]
    theirs = Peer(tmp_path / "m.gguf").logits(ids[0].tolist(), core.config.vocab_size)
    nmse = ((theirs - ours) ** 2).sum() / (ours**2).sum()
    assert nmse < (1e-5 if name == "gpt2" else 1e-6)


def strings(count):
    """Of assigned code points, of Chinese, of emoji, of code, of spaces, and of all at once."""
    dice = random.Random(0)
    assigned = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
    ]
    emoji = [letter for letter in assigned if 0x1F300 <= ord(letter) < 0x1FB00]
    rows = [row["text"] for row in Village(seed=9).documents(300)]
    code = [
        "def f(x):\n    return x**2\n",
        "for (int i=0; i<9; ++i) { a[i] = -1; }\n",
        "\t#!/bin/sh",
    ]
    kinds = [
        lambda: dice.choice(assigned),
        lambda: chr(dice.randrange(0x4E00, 0x9FFF)),
        lambda: dice.choice(emoji) + dice.choice(["", "\u200d", "\ufe0f"]),
        lambda: dice.choice(" \t\n\r\u00a0\u3000\u2003") * dice.randrange(1, 4),
        lambda: dice.choice(code)[dice.randrange(9) :],
        lambda: dice.choice(rows)[dice.randrange(60) :][: dice.randrange(1, 40)],
        lambda: str(dice.randrange(10**6)),
        lambda: dice.choice(["'s", "'LL", "don't", "I'M", "İ", "ß", "e\u0301", "½", "Ⅷ", "٣"]),
    ]
    for _ in range(count):
        one = dice.choice(kinds)
        mixed = dice.random() < 0.5
        parts = (dice.choice(kinds) if mixed else one for _ in range(dice.randrange(1, 12)))
        yield "".join(part() for part in parts)


@pytest.mark.parametrize("entries", [600, 4096])
def test_its_ids_are_ours(entries, tmp_path):
    rows = [row["text"] for row in Village(seed=3).documents(2_000)]
    tokenizer = Tokenizer.train([*rows, *strings(2_000)], entries)
    core, family = model_of("llama", tokenizer)
    write_gguf(tmp_path / "m.gguf", core, family, tokenizer, "F16")
    peer = Peer(tmp_path / "m.gguf", vocab_only=True)
    texts = list(strings(STRINGS))
    wrong = [
        (text, mine, theirs)
        for text, mine in zip(texts, tokenizer.encode_batch(texts), strict=True)
        if mine != (theirs := peer.ids(text))
    ]
    assert not wrong, f"{len(wrong)} of {len(texts)}, such as {wrong[:3]}"
