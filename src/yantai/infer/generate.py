"""Ids in, ids out: the loop that continues prompts, with a cache.

Knows: a model, prompts as ids, when to stop. Knows no text. Rows of different length are padded on
the left and masked; a row's result does not depend on its neighbours.
"""

from collections.abc import Iterator, Sequence

import torch

from yantai.base.device import mix_seed
from yantai.base.errors import UsageError
from yantai.core.cache import Cache
from yantai.core.layers import Joint, Linear
from yantai.core.mask import valid_keys
from yantai.core.model import Transformer
from yantai.infer.sample import adjust, pick
from yantai.infer.settings import Generation

PREFILL_CHUNK = 512


def prepare(model: Transformer) -> Transformer:
    """Lay a model out for decoding: weights packed, no dropout, no gradients."""
    joints = [module for module in model.modules() if isinstance(module, Joint)]
    inside = {id(part) for joint in joints for part in joint.parts}
    for module in model.modules():
        if isinstance(module, Joint) or (isinstance(module, Linear) and id(module) not in inside):
            module.pack()
    return model.eval().requires_grad_(False)


def check_room(model: Transformer, prompt: Sequence[int], new_tokens: int) -> None:
    """Refuse what the positions of the model cannot hold.

    Raises:
        UsageError: the prompt is empty, or prompt and new tokens are longer than the context.
    """
    limit = model.config.max_positions
    if not prompt:
        raise UsageError("E201", "prompt", "empty", expected="at least one token")
    if len(prompt) + new_tokens > limit:
        raise UsageError(
            "E201",
            "max_new_tokens",
            "prompt and new tokens do not fit the model's context",
            expected=f"at most {limit}",
            got=f"{len(prompt)} + {new_tokens}",
            do="shorten the prompt or ask for fewer tokens",
        )


@torch.inference_mode()
def steps(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    settings: Generation,
    stop_ids: frozenset[int] = frozenset(),
    *,
    cached: bool = True,
) -> Iterator[list[int | None]]:
    """Continue prompts together, a token a step.

    Args:
        model: in evaluation mode.
        prompts: token ids; `num_return_sequences` copies of each are continued, side by side.
        settings: lengths, sampling, seed.
        stop_ids: tokens that end a row; the token itself is still given out.
        cached: False recomputes everything at each step (for tests).

    Yields:
        At each step, one new token for every row, or None for a row that has ended.
    """
    rows = [list(prompt) for prompt in prompts for _ in range(settings.num_return_sequences)]
    limits = [settings.new_tokens(len(row)) for row in rows]
    for row, limit in zip(rows, limits, strict=True):
        check_room(model, row, limit)
    starts = [len(row) for row in rows]
    device = next(model.parameters()).device
    generators = [
        torch.Generator().manual_seed(mix_seed(settings.seed, number))
        for number in range(len(rows))
    ]
    longest = max(starts)
    padding = torch.tensor([longest - start for start in starts], device=device)
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    total = longest + max(limits, default=0)
    plain = bool((padding == 0).all())
    cache = _cache(model, len(rows), total, device) if cached else None
    done = [limit == 0 for limit in limits]
    new, read = padded, 0
    while not all(done):
        if cache is None:
            new, read = padded, 0
        logits = _forward(model, new, read, None if plain else padding, cache)
        read += new.shape[1]
        chosen: list[int | None] = []
        for number, row in enumerate(rows):
            if done[number]:
                chosen.append(None)
                continue
            token = pick(adjust(logits[number], row, settings), settings, generators[number])
            row.append(token)
            chosen.append(token)
            done[number] = token in stop_ids or len(row) - starts[number] >= limits[number]
        yield chosen
        new = torch.tensor([[token or 0] for token in chosen], device=device)
        padded = torch.cat((padded, new), dim=1) if cache is None else padded


def _cache(model: Transformer, batch: int, length: int, device: torch.device) -> Cache:
    dtype = model.compute_dtype or next(model.parameters()).dtype
    return Cache(model.config, batch, length, dtype=dtype, device=device)


def _forward(
    model: Transformer,
    ids: torch.Tensor,
    read: int,
    padding: torch.Tensor | None,
    cache: Cache | None,
) -> torch.Tensor:
    """Logits behind the last of the new ids; a long prompt is read in chunks."""
    hidden = None
    for start in range(0, ids.shape[1], PREFILL_CHUNK if cache is not None else ids.shape[1]):
        chunk = ids[:, start : start + PREFILL_CHUNK] if cache is not None else ids
        if padding is None:
            hidden = model.hidden(chunk, cache=cache)
            continue
        stop = read + start + chunk.shape[1]
        place = torch.arange(stop, device=ids.device)[None]
        positions = (place - padding[:, None]).clamp_min(0)[:, read + start :]
        seen = valid_keys(place >= padding[:, None])
        hidden = model.hidden(chunk, mask=seen, positions=positions, cache=cache)
    assert hidden is not None
    return model.logits_of(hidden[:, -1])


def generate_ids(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    settings: Generation,
    stop_ids: frozenset[int] = frozenset(),
    *,
    cached: bool = True,
) -> list[list[int]]:
    """Prompts with their continuations, `num_return_sequences` rows each, end token included."""
    rows = [list(prompt) for prompt in prompts for _ in range(settings.num_return_sequences)]
    for chosen in steps(model, prompts, settings, stop_ids, cached=cached):
        for row, token in zip(rows, chosen, strict=True):
            if token is not None:
                row.append(token)
    return rows
