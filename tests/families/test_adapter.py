"""PEFT's form: what we write it reads, and what it writes we read, with the same logits."""

import json

import pytest
import torch
import transformers

from yantai.adapt.lora import LoRA, adapters, add_lora, merge
from yantai.base.errors import ModelFileError
from yantai.core.config import Labels
from yantai.core.grow import with_head
from yantai.families.adapter import CONFIG, load_adapter, save_adapter
from yantai.families.folder import load_folder
from yantai.families.labels import judging

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
peft = pytest.importorskip("peft", reason="peft is the oracle")

IDS = torch.arange(3, 23)[None]
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    ),
    "bert": lambda: transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48,
    ),
    "t5": lambda: transformers.T5Config(
        vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    ),
}  # fmt: skip
CLASSES = {
    "bert": transformers.AutoModelForMaskedLM,
    "t5": transformers.AutoModelForSeq2SeqLM,
}
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "bert": ["query", "value"],
    "t5": ["q", "v"],
}


@pytest.fixture(params=CONFIGS)
def base(request, tmp_path):
    """A folder, and their model in it."""
    torch.manual_seed(0)
    name = request.param
    kind = CLASSES.get(name, transformers.AutoModelForCausalLM)
    theirs = kind.from_config(CONFIGS[name]()).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(tmp_path / "base")
    return name, tmp_path / "base", theirs


def their_logits(model):
    if model.config.is_encoder_decoder:
        return model(input_ids=IDS, decoder_input_ids=IDS.flip(1)).logits
    return model(input_ids=IDS).logits


def our_logits(model):
    if model.config.shape == "encoder-decoder":
        return model(IDS.flip(1), memory=model.encode(IDS))
    return model(IDS)


@pytest.mark.slow
@pytest.mark.parametrize("stabilised", [False, True])
def test_they_read_what_we_write(base, stabilised, tmp_path):
    _, folder, theirs = base
    ours, family, _ = load_folder(folder)
    lora = LoRA(rank=4, alpha=6, stabilised=stabilised)
    add_lora(ours, lora, seed=1)
    with torch.no_grad():
        for _, module in adapters(ours):
            module.lora_b.normal_(0, 0.2)
    (tmp_path / "adapter").mkdir()
    save_adapter(ours, family, lora, tmp_path / "adapter", base=str(folder))
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").double().eval()
    with torch.no_grad():
        assert (their_logits(adapted) - our_logits(ours)).abs().max() < 1e-6
        again, family, _ = load_folder(folder)
        load_adapter(again, family, tmp_path / "adapter")
        assert (our_logits(again) - our_logits(ours)).abs().max() < 1e-9


@pytest.mark.slow
def test_we_read_what_they_write(base, tmp_path):
    name, folder, theirs = base
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS[name], init_lora_weights=False,
        fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    adapted = peft.get_peft_model(theirs, config).eval()
    with torch.no_grad():
        expected = their_logits(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    ours, family, _ = load_folder(folder)
    lora = load_adapter(ours, family, tmp_path / "adapter")
    (tmp_path / "back").mkdir()
    save_adapter(ours, family, lora, tmp_path / "back", base=str(folder))
    again, *_ = load_folder(folder)
    load_adapter(again, family, tmp_path / "back")
    with torch.no_grad():
        assert (our_logits(ours) - expected).abs().max() < 1e-6
        assert (our_logits(again) - expected).abs().max() < 1e-6
        assert (our_logits(merge(ours)) - expected).abs().max() < 1e-6


@pytest.mark.slow
def test_a_head_of_labels_travels_along(base, tmp_path):
    name, folder, _ = base
    ours, family, _ = load_folder(folder)
    judge = judging(family, "classify")
    head = Labels(names=("a", "b"), dense=name in ("bert", "t5"), bias=name in ("bert", "t5"))
    network = with_head(ours, head, table=family.initial, seed=3).eval()
    lora = LoRA(rank=2, targets=("q", "k", "v"))
    add_lora(network, lora)
    (tmp_path / "adapter").mkdir()
    save_adapter(network, judge, lora, tmp_path / "adapter", base=str(folder))
    again = with_head(ours, head, table=family.initial, seed=4).eval()
    load_adapter(again, judge, tmp_path / "adapter")
    with torch.no_grad():
        assert (our_logits(again) - our_logits(network)).abs().max() < 1e-9


BAD = {
    "another kind": ({"peft_type": "LOHA"}, "peft_type"),
    "biases too": ({"bias": "all"}, "bias"),
    "another way": ({"use_dora": True}, "use_dora"),
    "no rank": ({"r": 0}, "rank"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_we_do_not_compute_is_refused(name, tmp_path):
    changes, said = BAD[name]
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4} | changes))
    ours = object()
    with pytest.raises(Exception, match=said) as caught:
        load_adapter(ours, None, tmp_path)
    assert isinstance(caught.value, ModelFileError) or "rank" in str(caught.value)


def test_an_adapter_of_peft_reads_with_the_tokenizer_of_its_base(tokenizer, tmp_path):
    """PEFT writes none beside it."""
    import yantai
    from yantai.core.config import ModelConfig
    from yantai.core.initialise import build
    from yantai.families.table import family_named
    from yantai.infer.language_model import LanguageModel

    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64,
    )  # fmt: skip
    ends = frozenset({tokenizer.eos_id})
    own = LanguageModel(build(config, seed=1), family_named("llama"), tokenizer, ends)
    own.save(tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wanted = peft.LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path=None)
    peft.get_peft_model(theirs, wanted).save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "tokenizer.json").exists()
    found = yantai.load(tmp_path / "adapter", dtype="float32")
    assert found.tokenizer.hash == tokenizer.hash
    assert found.generate("Ivan", max_new_tokens=4) == own.generate("Ivan", max_new_tokens=4)
