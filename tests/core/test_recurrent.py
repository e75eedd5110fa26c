"""Recurrent networks: torch's modules are the oracle; packing, padding, caches change nothing."""

import pytest
import torch
from torch import nn

from yantai.core.config import RecurrentConfig
from yantai.core.cost import count
from yantai.core.initialise import build
from yantai.core.mask import Mask, same_document, valid_keys
from yantai.core.stack import Memory

VOCAB, DIM, HIDDEN = 31, 12, 20
MODULES = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
KINDS = sorted(MODULES)
SHAPES = ["decoder", "encoder-decoder"]


def model_of(kind, shape="decoder", **changes):
    fields = {
        "kind": kind, "shape": shape, "vocab_size": VOCAB, "dim": DIM, "hidden": HIDDEN,
        "layers": 2, "max_positions": 64,
    }  # fmt: skip
    model = build(RecurrentConfig(**fields | changes), seed=1, table="recurrent").double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ids_of(*shape, seed=0):
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def memory_of(model, rows, length=9):
    if model.encoder is None:
        return {}
    return {"memory": model.encode(ids_of(rows, length, seed=5))}


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_module_of_torch_computes(kind):
    model = model_of(kind)
    module = MODULES[kind](DIM, HIDDEN, num_layers=2, batch_first=True).double()
    parts = {"weight_ih": "read.weight", "weight_hh": "keep.weight"}
    parts |= {"bias_ih": "read.bias", "bias_hh": "keep.bias"}
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for layer in range(2):
            for theirs, name in parts.items():
                value = ours[f"decoder.blocks.{layer}.forth.{name}"]
                getattr(module, f"{theirs}_l{layer}").copy_(value)
    ids = ids_of(3, 17)
    states, _ = module(model.embed.tokens.weight[ids])
    expected = states @ model.decoder.out.weight.T @ model.embed.tokens.weight.T
    assert torch.allclose(model(ids), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_get_the_logits_they_get_alone(kind, shape):
    model = model_of(kind, shape)
    sizes = [[4, 7, 5], [9, 3, 2], [16]]  # rows of 16, with padding behind
    ids, documents = ids_of(3, 16), torch.full((3, 16), -1)
    for row, lengths in enumerate(sizes):
        place = 0
        for number, length in enumerate(lengths):
            documents[row, place : place + length] = number
            place += length
    sources, source_documents = ids_of(3, 12, seed=3), torch.full((3, 12), -1)
    for row, lengths in enumerate(sizes):
        for number in range(len(lengths)):
            source_documents[row, 4 * number : 4 * number + 4] = number
    memory = {}
    if model.encoder is not None:
        hidden = model.encode(sources, mask=same_document(source_documents)).hidden
        across = Mask(documents=source_documents, query_documents=documents)
        memory = {"memory": Memory(hidden, across)}
    packed = model(ids, mask=same_document(documents), **memory)
    for row, lengths in enumerate(sizes):
        for number in range(len(lengths)):
            there = documents[row] == number
            alone = {}
            if model.encoder is not None:
                own = source_documents[row] == number
                alone = {"memory": model.encode(sources[row, own][None])}
            expected = model(ids[row, there][None], **alone)[0]
            assert torch.allclose(packed[row, there], expected, atol=1e-12)


@pytest.mark.parametrize("cuts", [(1,) * 10, (4, 6), (3, 1, 1, 5)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_reading_in_any_cut_gives_the_same_logits(kind, shape, cuts):
    model = model_of(kind, shape)
    ids, memory = ids_of(3, 10), memory_of(model, 3)
    cache = model.new_cache(3, 10, dtype=torch.float64, device="cpu")
    parts = [model(part, cache=cache, **memory) for part in ids.split(list(cuts), dim=1)]
    assert torch.allclose(torch.cat(parts, 1), model(ids, **memory), atol=1e-12)


@pytest.mark.parametrize("cuts", [(12,), (3, 9), (6, 1, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_left_leaves_the_state_as_it_was(kind, cuts):
    model = model_of(kind)
    ids, padding = ids_of(3, 12), [0, 5, 9]
    valid = torch.arange(12)[None] >= torch.tensor(padding)[:, None]
    cache = model.new_cache(3, 12, dtype=torch.float64, device="cpu")
    parts, read = [], 0
    for part in ids.split(list(cuts), dim=1):
        read += part.shape[1]
        parts.append(model(part, mask=valid_keys(valid[:, :read]), cache=cache))
    whole = torch.cat(parts, 1)
    for row, left in enumerate(padding):
        assert torch.allclose(whole[row, left:], model(ids[row, left:][None])[0], atol=1e-12)


def test_padding_of_a_source_changes_nothing():
    model = model_of("gru", "encoder-decoder")
    source, target = ids_of(1, 6), ids_of(1, 5, seed=2)
    expected = model(target, memory=model.encode(source))
    for before, behind in ((0, 4), (4, 0), (2, 3)):
        padded = torch.nn.functional.pad(source, (before, behind))
        valid = torch.zeros_like(padded, dtype=torch.bool)
        valid[:, before : before + 6] = True
        memory = model.encode(padded, mask=valid_keys(valid))
        assert torch.allclose(model(target, memory=memory), expected, atol=1e-12)


def test_the_attention_is_the_formula_written_out():
    model = model_of("gru", "encoder-decoder")
    memory, target = model.encode(ids_of(1, 6)), ids_of(1, 4, seed=2)
    keys, gather = memory.hidden[0], model.gather
    mean = keys.mean(0)
    begin = torch.tanh(gather.start.weight @ mean + gather.start.bias).view(2, 1, HIDDEN)
    states, _ = model.decoder(model.embed(target), None, (begin,))
    for state, got in zip(states[0], model.hidden(target, memory=memory)[0], strict=True):
        chances = (keys @ (gather.query.weight @ state)).softmax(0)
        seen = torch.cat((chances @ keys, state))
        assert torch.allclose(got, torch.tanh(gather.mix.weight @ seen + gather.mix.bias))


@pytest.mark.parametrize("kind", KINDS)
def test_later_tokens_change_nothing(kind):
    model, ids = model_of(kind), ids_of(1, 10)
    changed = ids.clone()
    changed[0, 6:] = 1
    assert torch.equal(model(ids)[:, :6], model(changed)[:, :6])
    assert not torch.equal(model(ids)[:, 6:], model(changed)[:, 6:])


def test_an_lstm_begins_by_forgetting_nothing():
    config = model_of("lstm").config
    model = build(config, table="recurrent")
    bias = dict(model.named_parameters())["decoder.blocks.0.forth.read.bias"]
    gates = bias.view(4, HIDDEN)
    assert gates[1].eq(1).all() and gates[[0, 2, 3]].eq(0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_costs_come_from_the_structure(kind, shape):
    model = model_of(kind, shape, tied=False)
    matrices = sum(
        each.numel() for name, each in model.named_parameters()
        if each.ndim == 2 and "embed" not in name
    )  # fmt: skip
    cost = count(model, 50)
    attention = 4 * DIM * 50 if shape == "encoder-decoder" else 0
    assert cost.forward_flops == 2 * matrices + attention
    assert (cost.encoder > 0) == (shape == "encoder-decoder")


def test_dropout_is_for_training_alone():
    model, ids = model_of("lstm", dropout=0.5), ids_of(2, 8)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind, shape):
    model, ids = model_of(kind, shape), ids_of(2, 8)
    model.loss_of(model.hidden(ids, **memory_of(model, 2)), ids).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_an_encoder_is_torchs_in_both_directions():
    model = model_of("gru", "encoder-decoder")
    module = nn.GRU(DIM, HIDDEN // 2, num_layers=2, batch_first=True, bidirectional=True).double()
    parts = {"weight_ih": "read.weight", "weight_hh": "keep.weight"}
    parts |= {"bias_ih": "read.bias", "bias_hh": "keep.bias"}
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for layer in range(2):
            for way, end in (("forth", ""), ("back", "_reverse")):
                for theirs, name in parts.items():
                    value = ours[f"encoder.blocks.{layer}.{way}.{name}"]
                    getattr(module, f"{theirs}_l{layer}{end}").copy_(value)
    ids = ids_of(3, 17)
    states, _ = module(model.embed.tokens.weight[ids])
    expected = states @ model.encoder.out.weight.T
    assert torch.allclose(model.encode(ids).hidden, expected, atol=1e-12)
