"""Quality on real text at equal wall time: our recipe against a plain GPT with the same tokenizer.

Knows: the corpora below YANTAI_DATA, one opponent (a GPT-2 in the plain way of `peers.py`, AdamW,
cosine by the clock, bfloat16 autocast, random crops), and one measure for both: `text_loss`, which
needs the opponent's weights in our structure. Runs are one after the other; nothing else may run.

    python -m bench.quality novels --minutes 5 --seeds 3
    python -m bench.quality novels --minutes 2 --tune        # on training novels, never on valid
    python -m bench.quality characters --seeds 3
    python -m bench.quality chinese --minutes 5 --seeds 3
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.peers import PlainGPT
from yantai.base.device import prepare_process
from yantai.core.config import ModelConfig
from yantai.core.initialise import build_meta, materialise
from yantai.core.model import Transformer
from yantai.evaluate.text_loss import text_loss
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.text.document import DocumentReader
from yantai.text.tokenizer import Tokenizer
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain


@dataclass(frozen=True)
class Opponent:
    """A plain GPT and how it is trained."""

    layers: int = 4
    dim: int = 256
    heads: int = 4
    context: int = 256
    batch: int = 16
    rate: float = 2e-3
    dropout: float = 0.0
    autocast: bool = True
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.02


def train_opponent(
    stream: np.ndarray, vocab: int, opponent: Opponent, *, seed: int, minutes=None, steps=None
) -> tuple[PlainGPT, dict[str, Any]]:
    """Train on random crops of one token stream until the minutes, or the steps, are over."""
    torch.manual_seed(seed)
    size = opponent.context
    model = PlainGPT(
        vocab, opponent.dim, opponent.layers, opponent.heads, size, dropout=opponent.dropout
    )
    optimizer = model.optimizer(opponent.rate, betas=opponent.betas)
    data = torch.from_numpy(stream.astype(np.int64))
    began, step = time.perf_counter(), 0
    while True:
        seconds = time.perf_counter() - began
        done = step / steps if steps else seconds / (60 * minutes)
        if done >= 1:
            break
        share = 0.1 + 0.45 * (1 + math.cos(math.pi * done))  # cosine to a tenth
        for group in optimizer.param_groups:
            group["lr"] = opponent.rate * min(1.0, done / opponent.warmup + 0.01) * share
        starts = torch.randint(len(data) - size - 1, (opponent.batch,)).tolist()
        rows = torch.stack([data[start : start + size + 1] for start in starts])
        with torch.autocast("cpu", torch.bfloat16, enabled=opponent.autocast):
            loss = model(rows[:, :-1], rows[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
    seconds = time.perf_counter() - began
    tokens = step * opponent.batch * size
    facts = {"seconds": seconds, "steps": step, "tokens": tokens}
    return model.eval(), facts


def in_our_structure(plain: PlainGPT, opponent: Opponent, tokenizer: Tokenizer) -> LanguageModel:
    """The opponent's weights in our core, so that one function measures both."""
    dim = opponent.dim
    config = ModelConfig(
        vocab_size=plain.tokens.num_embeddings, dim=dim, layers=opponent.layers,
        heads=opponent.heads, kv_heads=opponent.heads, head_dim=dim // opponent.heads,
        hidden=4 * dim, max_positions=opponent.context, norm="layer", norm_eps=1e-5,
        position="learned", gated=False, activation="gelu",
    )  # fmt: skip
    model = materialise(build_meta(config), "cpu")
    theirs = plain.state_dict()
    names = {
        "embed.tokens.weight": "tokens.weight",
        "decoder.entry.positions.weight": "positions.weight",
    }
    names["decoder.norm.weight"] = "norm.weight"
    for layer in range(opponent.layers):
        ours, block = f"decoder.blocks.{layer}.", f"blocks.{layer}."
        names[ours + "attn.norm.weight"] = block + "norm1.weight"
        names[ours + "attn.part.out.weight"] = block + "out.weight"
        names[ours + "mlp.norm.weight"] = block + "norm2.weight"
        names[ours + "mlp.part.up.value.weight"] = block + "up.weight"
        names[ours + "mlp.part.down.weight"] = block + "down.weight"
        for name, part in zip("qkv", theirs[block + "qkv.weight"].chunk(3), strict=True):
            theirs[block + name] = part
            names[ours + f"attn.part.qkv.{name}.weight"] = block + name
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.copy_(theirs[names[name]])
            else:
                assert name.endswith("norm.bias"), f"{name} has nothing to come from"
                parameter.zero_()
    _check_same(plain, model, opponent.context)
    return LanguageModel(model, family_named("gpt2"), tokenizer)


def _check_same(plain: PlainGPT, model: Transformer, context: int) -> None:
    """The translation changes no logit."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, plain.tokens.num_embeddings, (1, context), generator=generator)
    with torch.inference_mode():
        apart = (plain(ids) - model(ids)).abs().max()
    assert apart < 1e-3, f"the opponent in our structure answers differently: {apart}"


@dataclass(frozen=True)
class Corpus:
    """Where a corpus lies, the entries of its tokenizer, and who is trained against ours."""

    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    vocab_size: int = 4096
    opponent: Opponent = Opponent()


def novels(data: Path, scratch: Path, tune: bool) -> Corpus:
    """English novels; tuning holds out two of the training ones."""
    books = sorted((data / "eltec_eng" / "train").glob("*"))
    if tune:
        return Corpus(tuple(books[:-2]), tuple(books[-2:]))
    return Corpus(tuple(books), (data / "eltec_eng" / "valid",))


def chinese(data: Path, scratch: Path, tune: bool) -> Corpus:
    """Two classic novels and poems."""
    sources = [_pages(path.read_text(encoding="utf-8")) for path in _classics(data)]
    for path in sorted((data / "chinese_poetry").rglob("*.json")):
        items = json.loads(path.read_text(encoding="utf-8"))
        sources.append([poem for item in items if (poem := _poem(item))])
    return _held_out(sources, scratch / f"chinese{'-tune' if tune else ''}", tune)


def chinese_prose(data: Path, scratch: Path, tune: bool) -> Corpus:
    """Two classic novels, and the documentation of a database of today."""
    sources = [_pages(path.read_text(encoding="utf-8")) for path in _classics(data)]
    rows = (data / "tidb_docs_zh" / "docs.jsonl").read_text(encoding="utf-8").splitlines()
    sources.append([json.loads(row)["text"] for row in rows])
    return _held_out(sources, scratch / f"prose{'-tune' if tune else ''}", tune)


def _classics(data: Path) -> list[Path]:
    found = sorted((data / "zh_classic_novels").rglob("*.txt"))
    assert found, "no Chinese novels found"
    return found


def _held_out(sources: list[list[str]], place: Path, tune: bool) -> Corpus:
    """The last twentieth of each source is held out; while tuning, the last of what is left."""
    parts: dict[str, list[str]] = {"train": [], "valid": []}
    for items in sources:
        cut = len(items) * 19 // 20
        parts["train"] += items[:cut]
        parts["valid"] += items[cut:]
    if tune:
        cut = len(parts["train"]) * 19 // 20
        parts = {"train": parts["train"][:cut], "valid": parts["train"][cut:]}
    found = {}
    for name, items in parts.items():
        path = place.with_name(f"{place.name}-{name}.jsonl")
        rows = (json.dumps({"text": item}, ensure_ascii=False) + "\n" for item in items)
        path.write_text("".join(rows), encoding="utf-8")
        found[name] = (path,)
    return Corpus(found["train"], found["valid"], vocab_size=8192)


def _poem(item: dict[str, Any]) -> str:
    lines = item.get("paragraphs") or item.get("content") or []
    title = item.get("title") or item.get("rhythmic")
    return "\n".join([title, *lines] if title else lines)


def _pages(text: str, size: int = 8000) -> list[str]:
    """A book in pieces that end with a line, so that its last part can be held out."""
    pages, page = [], ""
    for line in text.splitlines(keepends=True):
        page += line
        if len(page) >= size:
            pages.append(page)
            page = ""
    return [*pages, page] if page.strip() else pages


CORPORA = {"novels": novels, "chinese": chinese, "chinese-prose": chinese_prose}


def bits(model: LanguageModel, paths: tuple[Path, ...]) -> dict[str, float]:
    """Loss a token and bits per byte of the held-out documents."""
    report = text_loss(model, DocumentReader(list(paths))).report()
    return {key: report[key] for key in ("loss", "bits_per_byte")}


def run_ours(corpus: Corpus, out: Path, tokenizer: Path, minutes, seed, changes):
    """Our recipe for this budget; the model that its own held-out documents call best."""
    settings = {"data": corpus.train, "out": out, "minutes": minutes, "seed": seed}
    settings |= {"tokenizer": tokenizer} | changes
    began = time.perf_counter()
    result = pretrain(Pretrain(**settings))
    facts = {key: result[key] for key in ("seconds", "steps", "tokens", "parameters")}
    facts["seconds_with_reading"] = round(time.perf_counter() - began, 1)
    return bits(load(out / "model", dtype="float32"), corpus.valid) | facts


def stream_of(paths: tuple[Path, ...], tokenizer: Tokenizer) -> np.ndarray:
    """All documents end to end, each closed by the end-of-text token."""
    parts = []
    for document in DocumentReader(list(paths)):
        parts.append(np.array([*tokenizer.encode(document.text), tokenizer.eos_id], np.int32))
    return np.concatenate(parts)


def run_opponent(corpus: Corpus, tokenizer: Tokenizer, opponent: Opponent, minutes, seed):
    """The opponent, measured by the same function."""
    stream = stream_of(corpus.train, tokenizer)
    plain, facts = train_opponent(
        stream, tokenizer.vocab_size, opponent, seed=seed, minutes=minutes
    )
    return bits(in_our_structure(plain, opponent, tokenizer), corpus.valid) | facts


def compare(name: str, options: argparse.Namespace, scratch: Path) -> None:
    """Ours and the opponent in turn, seed after seed."""
    corpus = CORPORA[name](_data(), scratch, options.tune)
    opponent = Opponent(**(asdict(corpus.opponent) | json.loads(options.opponent)))
    changes = json.loads(options.ours)
    kept = scratch / f"{name}-{'tune' if options.tune else 'tokenizer'}"
    if not kept.is_dir():
        texts = (document.text for document in DocumentReader(list(corpus.train)))
        Tokenizer.train(texts, corpus.vocab_size).save(kept)
    rows: dict[str, list[float]] = {"ours": [], "opponent": []}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        minutes = options.minutes
        if "ours" in options.only:
            out = scratch / f"{name}-{os.getpid()}-{seed}"
            found = run_ours(corpus, out, kept, minutes, seed, changes)
            minutes = max(minutes, found["seconds"] / 60)  # if ours ran over, so may the opponent
            rows["ours"].append(found["bits_per_byte"])
            _say(name, "ours", seed, changes, found)
        if "opponent" in options.only:
            found = run_opponent(corpus, Tokenizer.load(kept), opponent, minutes, seed)
            rows["opponent"].append(found["bits_per_byte"])
            _say(name, "opponent", seed, asdict(opponent), found)
    means = {key: statistics.mean(values) for key, values in rows.items() if values}
    print(f"means: {means}", flush=True)
    if len(means) == 2:
        print(f"ours lower by {1 - means['ours'] / means['opponent']:.2%}", flush=True)


def characters(options: argparse.Namespace, scratch: Path) -> None:
    """Small Shakespeare: a classic CPU recipe takes its time, ours gets the same time."""
    text = next((_data() / "tinyshakespeare").rglob("*.txt")).read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    paths = {}
    for part, content in {"train": text[:cut], "valid": text[cut:]}.items():
        paths[part] = scratch / f"characters-{part}.txt"
        paths[part].write_text(content, encoding="utf-8")
    corpus = Corpus((paths["train"],), (paths["valid"],))
    kept = scratch / "characters-tokenizer"
    if not kept.is_dir():
        Tokenizer.train([text], 512, "characters").save(kept)
    tokenizer = Tokenizer.load(kept)
    changes = json.loads(options.ours)
    stream = stream_of(corpus.train, tokenizer)[:-1]
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        minutes = options.minutes
        if "opponent" in options.only:
            plain, facts = train_opponent(
                stream, tokenizer.vocab_size, CLASSIC, seed=seed, steps=CLASSIC_STEPS
            )
            found = bits(in_our_structure(plain, CLASSIC, tokenizer), corpus.valid) | facts
            found["loss_of_random_crops"] = _crops(plain, text[cut:], tokenizer, CLASSIC)
            _say("characters", "opponent", seed, asdict(CLASSIC), found)
            minutes = facts["seconds"] / 60
        if "ours" in options.only:
            out = scratch / f"characters-{os.getpid()}-{seed}"
            found = run_ours(corpus, out, kept, minutes, seed, changes)
            _say("characters", "ours", seed, changes | {"minutes": minutes}, found)


CLASSIC = Opponent(
    layers=4, dim=128, heads=4, context=64, batch=12, rate=1e-3, autocast=False,
    betas=(0.9, 0.99), warmup=0.05,
)  # fmt: skip
CLASSIC_STEPS = 2000


@torch.inference_mode()
def _crops(plain: PlainGPT, text: str, tokenizer: Tokenizer, opponent: Opponent) -> float:
    """The loss as that recipe reports it: crops from anywhere, all positions."""
    data = torch.tensor(tokenizer.encode(text))
    starts = torch.arange(0, len(data) - opponent.context - 1, opponent.context)
    rows = torch.stack([data[start : start + opponent.context + 1] for start in starts])
    losses = [plain(part[:, :-1], part[:, 1:]).item() for part in rows.split(64)]
    return statistics.mean(losses)


def _data() -> Path:
    folder = os.environ.get("YANTAI_DATA")
    if not folder:
        sys.exit("set YANTAI_DATA to the folder that holds eltec_eng, tinyshakespeare, …")
    return Path(folder)


def _say(name: str, who: str, seed: int, settings: dict[str, Any], found: dict[str, Any]) -> None:
    found = {key: round(value, 4) for key, value in found.items()}
    print(f"RESULT {name} {who} seed {seed} {found} {settings}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", choices=[*CORPORA, "characters"])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="hold out part of the training text")
    parser.add_argument("--only", nargs="+", default=["ours", "opponent"])
    parser.add_argument("--ours", default="{}", help="JSON: changes to our recipe")
    parser.add_argument("--opponent", default="{}", help="JSON: changes to the opponent")
    parser.add_argument("--scratch", type=Path, default=Path("runs/quality"))
    options = parser.parse_args()
    prepare_process(2)
    options.scratch.mkdir(parents=True, exist_ok=True)
    if options.corpus == "characters":
        characters(options, options.scratch)
    else:
        compare(options.corpus, options, options.scratch)


if __name__ == "__main__":
    main()
