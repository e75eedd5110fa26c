"""Models that judge, against `transformers`: every family, and every job that it has there."""

import json

import pytest
import torch
import transformers
from oracles import REFERENCE, STARTS, VOCAB

from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import Labels
from yantai.core.initialise import build
from yantai.families.folder import load_folder, save_folder
from yantai.families.labels import JUDGES, judging
from yantai.families.table import FAMILIES

NAMES = {
    "classify": ("no", "yes", "也许"),
    "tag": ("O", "B-PER", "I-PER"),
    "span": ("start", "end"),
}
CASES = [key for key in JUDGES if FAMILIES[key[0]].in_transformers]
FEW = ("bert", "llama", "t5")
MARKED = [
    pytest.param(key, id="-".join(key), marks=[] if key[0] in FEW else [pytest.mark.slow])
    for key in CASES
]


@pytest.fixture(scope="module", params=MARKED)
def pair(request, tmp_path_factory):
    """Theirs, ours read from its folder, and the folder."""
    name, job = request.param
    torch.manual_seed(0)
    config = REFERENCE[name][0]()
    config.id2label = dict(enumerate(NAMES[job]))
    config.label2id = {name: number for number, name in enumerate(NAMES[job])}
    config._attn_implementation = "sdpa"
    theirs = getattr(transformers, JUDGES[name, job].architecture)(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
    folder = tmp_path_factory.mktemp(f"{name}-{job}")
    theirs.save_pretrained(folder)
    return theirs, load_folder(folder)[:2], folder


def texts():
    """Two texts, each with one token that ends it."""
    ids = torch.randint(3, VOCAB, (2, 40), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2
    return ids


def their_judgement(model, ids):
    found = model(ids)
    if "start_logits" in found:
        return torch.stack((found.start_logits, found.end_logits), -1)
    return found.logits


def our_judgement(model, family, ids):
    if model.config.shape == "encoder-decoder":
        shifted = torch.cat((torch.zeros_like(ids[:, :1]), ids[:, :-1]), 1)
        logits = model(shifted, memory=model.encode(ids))
    else:
        logits = model(ids)
    if family.job != "classify":
        return logits
    return logits[:, 0 if model.config.shape == "encoder" else -1]


def test_judgements_are_equal(pair):
    theirs, (ours, family), _ = pair
    with torch.no_grad():
        expected, got = their_judgement(theirs, texts()), our_judgement(ours, family, texts())
    assert expected.shape == got.shape
    assert (expected - got).abs().max() <= 1e-9


def test_labels_are_read_and_written(pair, tmp_path):
    theirs, (ours, family), _ = pair
    assert ours.config.head.names == NAMES[family.job]
    save_folder(ours, family, tmp_path, special=STARTS)
    again = type(theirs).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert tuple(again.config.id2label.values()) == NAMES[family.job]
    with torch.no_grad():
        assert torch.equal(their_judgement(again, texts()), their_judgement(theirs, texts()))
    back, same, _ = load_folder(tmp_path)
    assert back.config == ours.config
    assert (same.architecture, same.job) == (family.architecture, family.job)


@pytest.mark.parametrize("refuses", [True, False, None])
def test_a_folder_keeps_whether_a_question_may_have_no_answer(refuses, tmp_path):
    family = judging(FAMILIES["bert"], "span")
    config = FAMILIES["bert"].read_config(REFERENCE["bert"][0]().to_dict(), "config.json")
    head = Labels(names=NAMES["span"], refuses=refuses)
    save_folder(build(config.model_copy(update={"head": head})), family, tmp_path, special=STARTS)
    assert load_folder(tmp_path)[0].config.head.refuses is refuses
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "back")
    assert load_folder(tmp_path / "back")[0].config.head.refuses is refuses


def test_what_has_no_such_model_says_who_has():
    with pytest.raises(UsageError, match="no model for tag; expected gpt2, bert, roberta"):
        judging(FAMILIES["bart"], "tag")


@pytest.mark.parametrize(
    "labels", [[], {}, {"0": 3}, {"1": "a"}, {"0": "a", "2": "b"}, {"0": "a", "1": "a"}, "ab"]
)
def test_odd_labels_are_refused_with_their_field(labels, tmp_path):
    config = REFERENCE["bert"][0]().to_dict()
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": labels}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"config\.json:(id2label|head)"):
        load_folder(tmp_path)


def test_a_label_stands_once():
    with pytest.raises(ValueError, match="'a' stands twice"):
        Labels(names=("a", "b", "a"))
