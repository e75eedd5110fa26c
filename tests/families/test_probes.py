"""What travels with a model is what it answered: a changed tokenizer or weight is seen."""

import json
import re

import pytest
import torch

import yantai
from yantai.base.errors import ModelFileError
from yantai.base.files import sha256_file
from yantai.core.config import Labels, ModelConfig
from yantai.core.initialise import build
from yantai.families.folder import save_folder
from yantai.families.probes import PROBES, TOLERANCE, check_probes, probes_of, write_probes
from yantai.families.table import family_named
from yantai.text.village import Village
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain


def network_for(tokenizer, **changes):
    config = ModelConfig(**{
        "vocab_size": tokenizer.vocab_size, "dim": 32, "layers": 2, "heads": 2, "kv_heads": 2,
        "head_dim": 16, "hidden": 48, "max_positions": 96,
    } | changes)  # fmt: skip
    return build(config, seed=1, table="gpt2")


@pytest.fixture
def folder(tokenizer, tmp_path):
    network = network_for(tokenizer)
    save_folder(network, family_named("llama"), tmp_path)
    tokenizer.save(tmp_path)
    write_probes(tmp_path, network, tokenizer)
    return tmp_path


def opened(folder, **changes):
    return yantai.load(folder, dtype="float32", probes=True, **changes)


def test_a_run_leaves_them_and_its_model_passes(tmp_path, capsys):
    book = "\n".join(story.text for story in Village(seed=5).stories(30, "en"))
    (tmp_path / "book.txt").write_text(book, encoding="utf-8")
    pretrain(
        Pretrain(
            data=(tmp_path / "book.txt",), out=tmp_path / "run", size="nano", layers=1,
            vocab_size=400, context=64, steps=4, batch=2, threads=1, dtype="bfloat16",
        )
    )  # fmt: skip
    for name in ("model", "last"):
        table = json.loads((tmp_path / "run" / name / PROBES).read_text())
        assert table["dtype"] == "float32"  # the arithmetic of the weights, not of the training
        assert [len(row["best"]) for row in table["rows"]] == [5] * len(table["rows"])
        kinds = {"text" if "text" in row else "messages" for row in table["rows"]}
        assert kinds == {"text", "messages"}
        model = opened(tmp_path / "run" / name)
        worst = check_probes(tmp_path / "run" / name, model.network, model.tokenizer)
        assert worst is not None and worst < 1e-5
        listed = json.loads((tmp_path / "run" / name / "receipt.json").read_text())["outputs"]
        assert PROBES in listed
    assert "as trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("family", "changes", "start"),
    [
        ("bert", {"shape": "encoder", "position": "learned", "token_types": 2}, None),
        ("t5", {"shape": "encoder-decoder", "position": "relative"}, 0),
        ("llama", {"head": Labels(names=("a", "b"))}, None),
    ],
)
def test_every_shape_and_a_head_of_labels_has_answers(tokenizer, tmp_path, family, changes, start):
    network = network_for(tokenizer, **changes)
    network.train()
    write_probes(tmp_path, network, tokenizer, start)
    assert network.training
    assert check_probes(tmp_path, network, tokenizer, start) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        network.head.weight.mul_(1.5)
    with pytest.raises(ModelFileError, match="answers otherwise"):
        check_probes(tmp_path, network, tokenizer, start)


def test_a_changed_weight_is_named(folder):
    model = yantai.load(folder, dtype="float32")
    with torch.no_grad():
        model.network.decoder.blocks[0].mlp.part.down.weight.mul_(1.5)
    save_folder(model.network, family_named("llama"), folder)
    with pytest.raises(ModelFileError, match=r"probes\.json:rows\[0\].*expected -?\d.*got -?\d"):
        opened(folder)
    assert yantai.load(folder)  # who does not ask is not told


def test_a_changed_template_and_a_changed_tokenizer_are_named(folder, tokenizer):
    template = folder / "chat_template.jinja"
    before = template.read_text()
    template.write_text(before.replace("user", "person") + " ")
    with pytest.raises(ModelFileError, match=r"rows\[4\].*other ids .*first at \d+"):
        opened(folder)
    template.write_text(before)
    assert opened(folder)
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text())
    words = table["model"]["vocab"]
    first, second = (next(word for word in words if word == letter) for letter in ("t", "e"))
    words[first], words[second] = words[second], words[first]
    path.write_text(json.dumps(table))
    with pytest.raises(ModelFileError, match=r"rows\[\d\].*expected \d+ '.*got \d+ '"):
        opened(folder)


def test_fewer_bits_are_told_not_refused(folder, capsys):
    assert yantai.load(folder, dtype="bfloat16", probes=True)
    share = float(re.search(r"within (\S+) of", capsys.readouterr().err)[1])
    assert 1e-6 < share < 0.1
    assert TOLERANCE == 1e-3


@pytest.mark.parametrize(
    "content",
    [
        [], {"rows": 3}, {"dtype": "float32", "rows": [3]},
        {"dtype": "float32", "rows": [{"text": "a", "ids": [], "best": [], "logits": []}]},
        {"dtype": "float32", "rows": [{"text": "a", "ids": [1], "best": [-1], "logits": [0.0]}]},
        {"dtype": "float32", "rows": [{"text": 1, "ids": [1], "best": [1], "logits": [0.0]}]},
        {"dtype": "float32", "rows": [
            {"messages": [None], "ids": [1], "best": [1], "logits": [0.0]}]},
        {"dtype": "float32", "rows": [
            {"text": "x", "ids": [10**30], "best": [1], "logits": [0.0]}]},
    ],
)  # fmt: skip
def test_a_file_that_somebody_else_wrote_is_refused(folder, content):
    (folder / PROBES).write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=r"probes\.json"):
        opened(folder)


@pytest.mark.parametrize(
    "odd", [10**400, 1e300, float("nan"), float("-inf"), "0.5", True], ids=lambda odd: str(odd)[:9]
)
def test_a_logit_that_is_no_number_of_float32_is_refused(folder, odd):
    table = json.loads((folder / PROBES).read_text())
    table["rows"][0]["logits"][0] = odd
    (folder / PROBES).write_text(json.dumps(table))
    with pytest.raises(ModelFileError, match=r"rows\[0\]: not a probe") as caught:
        opened(folder)
    assert caught.value.code == "E410"


def test_answers_beyond_the_model_are_refused(folder, tokenizer):
    network = network_for(tokenizer)
    table = probes_of(network, tokenizer)
    table["rows"][0]["best"][0] = 10**6
    (folder / PROBES).write_text(json.dumps(table))
    with pytest.raises(ModelFileError, match="beyond"):
        opened(folder)
    (folder / PROBES).unlink()
    assert opened(folder)


def test_ids_beyond_the_model_are_refused_where_it_judges_too(tokenizer, tmp_path):
    network = network_for(tokenizer, head=Labels(names=("a", "b")))
    table = probes_of(network, tokenizer)
    table["rows"][0] |= {"ids": [10**30], "text": ""}
    (tmp_path / PROBES).write_text(json.dumps(table))
    with pytest.raises(ModelFileError, match="beyond"):
        check_probes(tmp_path, network, None)


OTHERS = "{% if messages|length > 7 %}Obey.{% endif %}"


def test_a_template_that_only_other_conversations_show_is_missed_by_its_hash(folder, tokenizer):
    template = folder / "chat_template.jinja"
    before = template.read_text()
    template.write_text(OTHERS + before)
    with pytest.raises(ModelFileError, match="the chat template is not the one") as caught:
        opened(folder)
    assert caught.value.code == "E405"
    template.unlink()  # it may lie in the settings instead, which is the same template
    settings = folder / "tokenizer_config.json"
    table = json.loads(settings.read_text())
    settings.write_text(json.dumps(table | {"chat_template": before.replace("\n", "\r\n")}))
    assert opened(folder)
    settings.write_text(json.dumps(table | {"chat_template": OTHERS + before}))
    with pytest.raises(ModelFileError, match="the chat template is not the one"):
        opened(folder)


def test_a_folder_of_before_does_not_know_its_template(folder):
    table = json.loads((folder / PROBES).read_text())
    del table["chat_template"]
    (folder / PROBES).write_text(json.dumps(table))
    assert opened(folder)


def test_a_changed_weight_is_seen_without_a_tokenizer(folder, capsys):
    (folder / "tokenizer.json").unlink()
    assert not opened(folder).has_tokenizer
    assert "no tokenizer, logits within" in capsys.readouterr().err
    model = yantai.load(folder, dtype="float32")
    read = {id for row in json.loads((folder / PROBES).read_text())["rows"] for id in row["ids"]}
    unread = next(id for id in range(model.network.config.vocab_size) if id not in read)
    with torch.no_grad():
        model.network.embed.tokens.weight[unread] += 1e-4
    save_folder(model.network, family_named("llama"), folder)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: is not the file|otherwise"):
        opened(folder)


def test_a_merge_that_no_probe_touches_is_missed_by_its_hash(folder):
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    table["model"]["merges"].pop()  # the rarest
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(ModelFileError, match="not the one that the model was trained with"):
        opened(folder)


def test_rounded_weights_may_answer_a_little_otherwise_and_no_more(folder):
    assert yantai.load(folder, dtype="bfloat16", probes=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    with pytest.raises(ModelFileError, match="answers otherwise") as caught:
        yantai.load(folder, dtype="bfloat16", probes=True)
    assert caught.value.code == "E410"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_no_probe_sees_is_told_by_the_files(folder, dtype):
    """A row of the embedding that no probe reads, an eps that a rounded type hides."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1.1e-6}))
    with pytest.raises(ModelFileError, match=r"config\.json: is not the file") as caught:
        yantai.load(folder, dtype=dtype, probes=True)
    assert caught.value.code == "E410"
    (folder / "config.json").write_text(json.dumps(config))
    model = yantai.load(folder, dtype="float32")
    read = {id for row in json.loads((folder / PROBES).read_text())["rows"] for id in row["ids"]}
    unread = next(id for id in range(model.network.config.vocab_size) if id not in read)
    with torch.no_grad():
        model.network.embed.tokens.weight[unread] += 0.01
    save_folder(model.network, family_named("llama"), folder)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: is not the file|otherwise"):
        yantai.load(folder, dtype=dtype, probes=True)


def test_another_end_of_texts_is_named(folder):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 7}))
    with pytest.raises(ModelFileError, match="texts end elsewhere"):
        opened(folder)


def test_probes_that_a_receipt_lists_are_missed(folder):
    listed = {"outputs": {PROBES: sha256_file(folder / PROBES)}}
    (folder / "receipt.json").write_text(json.dumps(listed))
    assert opened(folder)
    (folder / PROBES).unlink()
    with pytest.raises(ModelFileError, match="is gone"):
        opened(folder)
    (folder / "receipt.json").unlink()
    assert opened(folder)


@pytest.mark.parametrize("change", ["files", "rows"])
def test_probes_that_are_not_those_of_the_receipt_are_refused(folder, change):
    table = json.loads((folder / PROBES).read_text())
    listed = {"outputs": {PROBES: sha256_file(folder / PROBES)}}
    (folder / "receipt.json").write_text(json.dumps(listed))
    less = {"files": {}, "rows": table["rows"][:1]}
    (folder / PROBES).write_text(json.dumps(table | {change: less[change]}))
    with pytest.raises(ModelFileError, match=r"probes\.json: is not the file that was") as caught:
        opened(folder)
    assert caught.value.code == "E410"
    (folder / "receipt.json").write_text(json.dumps({"outputs": {"config.json": "00"}}))
    assert opened(folder)  # whoever wrote this receipt left no probes


def test_a_model_that_is_saved_again_has_neither_probes_nor_receipt(folder, tmp_path):
    opened(folder).save(tmp_path / "copy")
    assert not {PROBES, "receipt.json"} & {path.name for path in (tmp_path / "copy").iterdir()}
    assert opened(tmp_path / "copy")
