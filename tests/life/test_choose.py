"""Which answer is likeliest: the same as scoring each text by itself."""

import json

import numpy as np
import pytest

from yantai.base.errors import DataError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.data.batch import IGNORED
from yantai.data.choices import read_choices
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.life.jobs.choose import _example
from yantai.life.settings import Evaluate
from yantai.life.verbs import evaluate
from yantai.text.village import Village

ROWS = [
    {"query": "Ivan is", "choices": ["glad today.", "a goose and a mill."], "gold": 1},
    {"query": "The baker", "choices": ["has bread.", "went home to sleep."], "gold": 0},
    {"context_options": ["Anna was", "The old mill was"], "continuation": "glad.", "gold": 0},
]


@pytest.fixture(scope="module")
def model(tokenizer):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, layers=1, heads=2, kv_heads=2, head_dim=16,
        hidden=64, max_positions=64,
    )  # fmt: skip
    network = build(config, seed=2, table="gpt2")
    return LanguageModel(network, family_named("llama"), tokenizer, frozenset({tokenizer.eos_id}))


def log_chance(model, begins, follows):
    whole = model.score(f"{begins} {follows}")
    before = len(model.tokenizer.encode(begins))
    return sum(each.log_probability for each in whole[before:])


def test_the_likeliest_is_that_of_scores(model, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    model.save(tmp_path / "model")
    report = evaluate(
        Evaluate(model=tmp_path / "model", data=(path,), task="choose", against=tmp_path / "model"),
        str,
    )
    rows, _ = read_choices(path)
    plain, by_length = [], []
    for row in rows:
        logs = np.array([log_chance(model, *pair) for pair in row.pairs])
        sizes = np.array([len(follows.encode()) for _, follows in row.pairs])
        plain.append(logs.argmax() == row.gold)
        by_length.append((logs / sizes).argmax() == row.gold)
    assert report["metrics"]["likeliest"]["value"] == pytest.approx(np.mean(plain))
    assert report["metrics"]["likeliest_by_length"]["value"] == pytest.approx(np.mean(by_length))
    assert report["metrics"]["likeliest"]["chance"] == 0.5
    assert "no difference shown" in report["against"][str(tmp_path / "model")]["verdict"]


def test_chinese_texts_are_joined_without_a_space(model):
    example = _example(model.frame, "今天", "下雨。", "row 1")
    text = [*example.ids, [target for target in example.targets if target != IGNORED][-1]]
    assert model.tokenizer.decode(text) == "今天下雨。"


def test_what_the_model_would_say_itself(model, tmp_path):
    model.save(tmp_path / "model")
    prompt = next(Village(seed=3).stories(1, "en")).text[:40].rstrip()
    said = model.generate(prompt, max_new_tokens=1)[len(prompt) :]
    path = tmp_path / "rows.jsonl"
    rows = [{"context": prompt, "continuation": said.strip() or "x"}]
    rows.append({"context": prompt, "continuation": "磨坊"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = evaluate(Evaluate(model=tmp_path / "model", data=(path,), task="choose"), str)
    assert set(report["metrics"]) == {"said"}
    assert report["metrics"]["said"]["value"] in (0.0, 0.5)


@pytest.mark.parametrize(
    "row",
    [
        {"query": "a", "choices": ["b"], "gold": 1},
        {"query": "a", "choices": [], "gold": 0},
        {"query": "a", "choices": ["b", ""], "gold": 0},
        {"query": "a", "choices": ["b", "c"], "gold": "b"},
        {"text": "a"},
    ],
)
def test_a_row_that_asks_nothing_is_named(row, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"rows.jsonl:1"):
        read_choices(path)


@pytest.mark.parametrize("name", ["copa", "piqa", "arc_easy", "winograd_wsc", "lambada_openai"])
def test_real_files(name, data):
    rows, _ = read_choices(data / "lm_eval_en" / f"{name}.jsonl")
    assert len(rows) > 50
