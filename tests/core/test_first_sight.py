"""An encoder that begins by looking at neighbours: at whom each head looks, and what it brings."""

import pytest
import torch

from yantai.core.config import ModelConfig
from yantai.core.first_sight import HEARD, look_at_all, neighbour_of, turn
from yantai.core.initialise import build
from yantai.core.model import Transformer
from yantai.core.position import sinusoids


def encoder(heads: int = 4, dim: int = 64, **changed) -> Transformer:
    """A BERT in small, with the table's first weights."""
    config = ModelConfig(
        vocab_size=50, dim=dim, layers=2, heads=heads, kv_heads=heads, head_dim=dim // heads,
        hidden=128, max_positions=40, shape="encoder", norm="layer", norm_where="after",
        norm_embedding=True, position="learned", gated=False, activation="gelu",
        biases=("head", "mlp", "out", "qkv"), head="transformed", token_types=2, **changed,
    )  # fmt: skip
    model = build(config, seed=3, table="neighbours")
    assert isinstance(model, Transformer)
    return model.eval()


def patterns(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    """The first block's attention, "head query key"."""
    assert model.encoder is not None
    seen = []
    attention = model.encoder.blocks[0].attn.part
    hook = attention.pattern.register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        model.encode(ids)
    hook.remove()
    return seen[0][0]


@pytest.mark.parametrize("offset", [0, 2])
def test_each_head_looks_at_its_neighbour_whatever_stands_there(offset):
    """The strongest key is the neighbour's, also between equal tokens as masks are."""
    torch.manual_seed(0)
    model = encoder(dim=256, heads=4, position_offset=offset)
    # a token's length changes a place's share of the stream, so that a few look one further
    for ids, share in ((torch.full((1, 30), 7), 1.0), (torch.randint(50, (1, 30)), 0.85)):
        pattern = patterns(model, ids)
        for head in range(4):
            hits = pattern[head, 2:28].argmax(-1) == torch.arange(2, 28) + neighbour_of(head)
            assert hits.float().mean() >= share
        assert pattern[0, 2:28].diagonal(1).mean() > 4 / 30  # where chance gives 1 / 30


@pytest.mark.parametrize(("heads", "dim"), [(4, 64), (3, 48), (1, 32)])
def test_a_last_look_at_all_brings_their_mean_to_every_place(heads, dim):
    """What the last attention adds is the mean of its inputs, HEARD times as long."""
    model = encoder(heads, dim)
    assert model.encoder is not None
    look_at_all(model.encoder, torch.Generator().manual_seed(1))
    seen = []
    part = model.encoder.blocks[-1].attn.part
    hook = part.register_forward_hook(lambda module, given, result: seen.append((given, result)))
    with torch.no_grad():
        model.encode(torch.randint(50, (1, 20)))
    hook.remove()
    (given, result) = seen[0]
    read, added = given[0], result[0] if isinstance(result, tuple) else result
    mean = read.mean(dim=1, keepdim=True).expand_as(read)
    torch.testing.assert_close(added, HEARD * mean, atol=0.05 * HEARD, rtol=0)
    assert (added - added[:, :1]).abs().max() < 0.1 * HEARD


def test_a_turn_moves_sinusoids_by_so_many_places():
    """R·s(p) = s(p + n), in both directions."""
    rows = sinusoids(torch.arange(20)[None], 16)[0]
    for places in (-3, 0, 2):
        moved = rows[5:15] @ turn(places, 16).mT
        torch.testing.assert_close(moved, rows[5 + places : 15 + places], atol=1e-5, rtol=0)


def test_a_head_hands_on_half_of_what_a_neighbour_says_and_nothing_of_places():
    """Through values and output, a token's dimensions come back halved; places do not."""
    model = encoder(dim=256, heads=4)
    assert model.encoder is not None
    attention = model.encoder.blocks[0].attn.part
    whole = attention.qkv.part("v").weight.detach()
    out = attention.out.weight.detach()
    for head in range(4):
        part = slice(64 * head, 64 * head + 64)
        through = out[:, part] @ whole[part]
        assert through[:64].abs().max() == 0 and through[:, :64].abs().max() == 0
        values = torch.linalg.eigvalsh((through + through.mT) / 2)
        torch.testing.assert_close(values[-64:], torch.full((64,), 0.5), atol=1e-4, rtol=0)
        torch.testing.assert_close(values[:-64], torch.zeros(192), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("heads", "dim"), [(1, 32), (2, 32), (12, 96), (3, 15)])
def test_any_width_begins_somewhere_finite(heads, dim):
    """One head, many, an odd width of heads: all weights are finite and tokens keep dimensions."""
    model = encoder(heads, dim)
    assert all(bool(item.isfinite().all()) for item in model.parameters())
    assert model.embed.tokens.weight.abs().sum() > 0
    assert bool(model.encode(torch.arange(20)[None]).hidden.isfinite().all())


def test_another_seed_is_another_model_and_the_same_is_the_same():
    """Also what is written afterwards follows the seed."""
    one, again = (encoder().state_dict() for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    other = build(encoder().config, seed=4, table="neighbours").state_dict()
    name = "encoder.blocks.0.attn.part.out.weight"
    assert not torch.equal(one[name], other[name])


def loss_after(table: str, steps: int) -> float:
    """Nats a hidden token on a language where each token decides the next, after some steps."""
    model = build(encoder().config, seed=0, table=table).train()
    chance = torch.Generator().manual_seed(5)
    follows = torch.randperm(49, generator=chance)  # token 49 hides
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        row = [torch.randint(49, (16,), generator=chance)]
        for _ in range(39):
            leap = torch.rand(16, generator=chance) < 0.1
            row.append(
                torch.where(leap, torch.randint(49, (16,), generator=chance), follows[row[-1]])
            )
        ids = torch.stack(row, dim=1)
        hidden = torch.rand(ids.shape, generator=chance) < 0.15
        read = model.encode(ids.masked_fill(hidden, 49)).hidden
        loss = model.loss_of(read, ids.masked_fill(~hidden, -100)) / hidden.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return sum(losses[-10:]) / 10


def test_what_neighbours_say_is_learned_where_plain_weights_still_guess():
    """Plain weights are still at the frequencies, 3.9 nats, after as many steps."""
    assert loss_after("neighbours", 80) < loss_after("gpt2", 80) - 1.0


def with_distances(heads: int = 4, kv_heads: int = 4, **changed) -> Transformer:
    """A T5 in small, with the table's first weights."""
    config = ModelConfig(
        vocab_size=200, dim=64, layers=2, heads=heads, kv_heads=kv_heads, head_dim=16, hidden=96,
        max_positions=40, shape="encoder-decoder", position="relative",
        **{"scaled": ()} | changed,
    )  # fmt: skip
    model = build(config, seed=3, table="neighbours")
    assert isinstance(model, Transformer)
    return model.eval()


def looked_at(part: torch.nn.Module, run) -> torch.Tensor:
    """A part's attention, "head query key"."""
    seen = []
    hook = part.pattern.register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        run()
    hook.remove()
    return seen[0][0]


def test_distances_begin_with_what_is_beside():
    """Even heads look back, odd ones ahead, the less the farther; a decoder looks back only."""
    model = with_distances()
    ids = torch.full((1, 30), 7)
    pattern = looked_at(model.encoder.blocks[0].attn.part, lambda: model.encode(ids))
    for head in range(4):
        row = pattern[head, 15]
        side = 1 if head % 2 else -1
        assert row.argmax() == 15 + side
        near, far = row[15 + side], row[15 + 4 * side]
        assert near > 4 * far > 4 * row[15 + 12 * side] and near > 4 * row[15 - side]
    memory = model.encode(ids)
    pattern = looked_at(model.decoder.blocks[0].attn.part, lambda: model.hidden(ids, memory=memory))
    assert (pattern[:, 15].argmax(-1) == 14).all()


@pytest.mark.parametrize("changed", [{}, {"kv_heads": 2}, {"scaled": ("scores",)}])
def test_a_decoder_begins_by_looking_for_its_own_token_in_the_source(changed):
    model = with_distances(**changed)
    torch.manual_seed(0)
    source = torch.randperm(200)[None, :30]
    memory = model.encode(source)
    asked = source[:, 5:20]
    pattern = looked_at(
        model.decoder.blocks[0].cross.part, lambda: model.hidden(asked, memory=memory)
    )
    assert pattern.diagonal(5, 1, 2).mean() > 0.3  # where chance gives 1 / 30
    assert (pattern.argmax(-1) == torch.arange(5, 20)).float().mean() > 0.8
