"""The harness's three questions against the model itself, and a task from its file to a score."""

import json
from types import SimpleNamespace

import pytest
import torch

from yantai.base.errors import UsageError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.families.table import FAMILIES
from yantai.infer.language_model import LanguageModel

harness = pytest.importorskip(
    "yantai.evaluate.harness", reason="pip install 'yantai[eval]'", exc_type=ImportError
)

PAIRS = [("Ivan has a grey", " goose"), ("", "Anna"), ("谁来了？", "伊凡"), ("One two ", "three")]


def asked(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


@pytest.fixture(scope="module")
def lm(tokenizer):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16,
        hidden=48, max_positions=48,
    )  # fmt: skip
    network = build(config, seed=1, table="gpt2", dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ends = frozenset({tokenizer.eos_id})
    return harness.Harnessed(LanguageModel(network, FAMILIES["llama"], tokenizer, ends), batch=3)


def logs_of(lm, ids):
    """ln p of each token behind the first."""
    logs = lm.model.logits(ids)[0, :-1].log_softmax(-1)
    return logs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_continuations_have_the_likelihood_of_their_tokens(lm):
    found = lm.loglikelihood(asked(*PAIRS), disable_tqdm=True)
    for (before, follows), (value, _) in zip(PAIRS, found, strict=True):
        whole = lm.tok_encode(before + follows)
        size = len(lm.tok_encode(before.rstrip())) if before else 1
        assert value == pytest.approx(float(logs_of(lm, whole)[size - 1 :].sum()), abs=1e-9)


def test_what_the_model_would_say_is_likeliest(lm):
    (said,) = lm.generate_until(asked(("Ivan has", {"until": [], "max_gen_toks": 4})))
    before = lm.tok_encode("Ivan has")
    token = int(lm.model.logits(before)[0, -1].argmax())
    worst = int(lm.model.logits(before)[0, -1].argmin())
    pairs = [(None, before, [token]), (None, before, [worst])]
    assert [likeliest for _, likeliest in lm._loglikelihood_tokens(pairs)] == [True, False]
    assert said.startswith(lm.model.tokenizer.decode([*before, token])[len("Ivan has") :])


def test_a_long_text_is_read_in_windows_each_token_once(lm):
    text = "Ivan lent his grey goose to old Anna, and she was glad of it all day. " * 4
    ids = lm.model.tokenizer.encode(text)
    assert len(ids) > 2 * lm.length
    whole, expected = [lm.prefix_token_id, *ids], 0.0
    for start in range(0, len(ids), lm.length):
        stop = min(start + lm.length, len(ids))
        first = max(0, stop - lm.length)
        expected += float(logs_of(lm, whole[first : stop + 1])[start - first :].sum())
    short = "Anna."
    assert lm.loglikelihood_rolling(asked((text,), (short,))) == pytest.approx(
        [expected, float(logs_of(lm, lm.tok_encode(short)).sum())], abs=1e-9
    )


def test_writing_stops_where_it_should(lm):
    (free,) = lm.generate_until(asked(("Ivan has", {"until": [], "max_gen_toks": 12})))
    stop = free[len(free) // 2]
    (cut,) = lm.generate_until(asked(("Ivan has", {"until": [stop], "max_gen_toks": 12})))
    assert cut == free.partition(stop)[0]
    long = "word " * 100  # the beginning goes, not the room for an answer
    assert isinstance(lm.generate_until(asked((long, {"max_gen_toks": 8})))[0], str)


def test_control_tokens_of_a_rendered_chat_are_read_as_such(lm):
    talk = [{"role": "user", "content": "Who?"}]
    text = lm.apply_chat_template(talk)
    assert lm.tok_encode(text) == lm.model.chat_format.render(talk, reply=True).ids
    lm._chat = False


def test_a_task_from_its_file_to_its_score(lm, tmp_path):
    rows = [
        {"question": f"Who has {number} geese?", "choices": ["Ivan", "Anna", "Boris"], "gold": 1}
        for number in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "geese.yaml").write_text(
        "task: geese\ndataset_path: json\noutput_type: multiple_choice\ntest_split: train\n"
        f"dataset_kwargs: {{data_files: {tmp_path / 'rows.jsonl'}}}\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: gold\ndoc_to_choice: choices\n"
        "metric_list: [{metric: acc}]\n"
    )
    report = harness.harness_report(lm.model, ["geese"], folder=tmp_path)
    right = 0
    for row in rows:
        requests = asked(*((row["question"], f" {choice}") for choice in row["choices"]))
        values = [value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)]
        right += values.index(max(values)) == 1
    assert report["results"]["geese"]["acc,none"] == pytest.approx(right / len(rows))
    assert report["n-samples"]["geese"]["effective"] == 12
    spread = report["results"]["geese"]["acc_stderr,none"]
    interval = report["intervals"]["geese"]["acc,none"]
    assert interval["value"] == pytest.approx(right / len(rows))
    assert interval["high"] - interval["low"] == pytest.approx(2 * 1.96 * spread, abs=1e-4)
    with pytest.raises(UsageError, match="no task 'gese'"):
        harness.harness_report(lm.model, ["gese"], folder=tmp_path)


def test_an_encoder_is_not_asked(tokenizer):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=1, kv_heads=1, head_dim=16,
        hidden=16, max_positions=16, shape="encoder",
    )  # fmt: skip
    with pytest.raises(UsageError, match="decoders alone; got encoder"):
        harness.Harnessed(LanguageModel(build(config), FAMILIES["bert"], tokenizer))


@pytest.mark.parametrize("said", ["Couldn't reach the hub\nTraceback", ""])
def test_data_that_cannot_be_fetched_are_no_fault_of_ours(lm, tmp_path, monkeypatch, said):
    monkeypatch.setattr(harness, "TaskManager", lambda **kwargs: SimpleNamespace(all_tasks=["far"]))

    def fail(*args, **kwargs):
        raise ConnectionError(said)

    monkeypatch.setattr(harness, "simple_evaluate", fail)
    with pytest.raises(UsageError, match="could not be fetched") as caught:
        harness.harness_report(lm.model, ["far"])
    assert caught.value.code == "E206" and "--harness-folder" in caught.value.do
