"""Ids in, ids out: the loop that continues prompts, with a cache.

Knows: a model, prompts as ids, when to stop. Knows no text. Rows of different length are padded on
the left and masked; a row's result does not depend on its neighbours.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from yantai.base.device import mix_seed
from yantai.base.errors import UsageError
from yantai.base.pages import LargePages
from yantai.core.cache import Cache
from yantai.core.layers import Joint, Linear, itself
from yantai.core.mask import valid_keys
from yantai.core.model import Transformer
from yantai.infer.native.step import MOST_ROWS, native_step
from yantai.infer.sample import adjust, pick
from yantai.infer.settings import Generation

PREFILL_CHUNK = 512


def prepare(model: Transformer) -> Transformer:
    """Lay a model out for decoding: weights packed, no dropout, no gradients."""
    tensors = list(model.parameters())
    size = sum(each.numel() * each.element_size() for each in tensors)
    on_cpu = all(each.device.type == "cpu" for each in tensors)
    place = LargePages(size, len(tensors)).place if on_cpu else itself
    joints = [module for module in model.modules() if isinstance(module, Joint)]
    inside = {id(part) for joint in joints for part in joint.parts}
    for module in model.modules():
        if isinstance(module, Joint) or (isinstance(module, Linear) and id(module) not in inside):
            module.pack(place)
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
    generators = [
        torch.Generator().manual_seed(mix_seed(settings.seed, number))
        for number in range(len(rows))
    ]
    done = [limit == 0 for limit in limits]
    if all(done):
        return
    reader = _Reader(model, rows, max(limits)) if cached else _Rereader(model, rows)
    logits = reader.prompts()
    while True:
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
        if all(done):
            return
        logits = reader.one_more([token or 0 for token in chosen])


class _Rows:
    """Prompts side by side, padded on the left."""

    def __init__(self, model: Transformer, rows: list[list[int]]):
        self.model = model
        longest = max(len(row) for row in rows)
        self.device = next(model.parameters()).device
        self.padding = [longest - len(row) for row in rows]
        padded = [[0] * (longest - len(row)) + row for row in rows]
        self.padded = torch.tensor(padded, device=self.device)
        self._hidden_keys = torch.tensor(self.padding, device=self.device)[:, None]

    def masks(self, start: int, stop: int) -> dict[str, Any]:
        """Positions and mask of the places from `start` to `stop`; nothing where none is padded."""
        if not any(self.padding):
            return {}
        place = torch.arange(stop, device=self.device)[None]
        positions = (place - self._hidden_keys).clamp_min(0)[:, start:]
        return {"mask": valid_keys(place >= self._hidden_keys), "positions": positions}


class _Reader(_Rows):
    """Logits behind the newest token of each row, with a cache of what was read before."""

    def __init__(self, model: Transformer, rows: list[list[int]], new_tokens: int):
        super().__init__(model, rows)
        dtype = model.compute_dtype or next(model.parameters()).dtype
        length = self.padded.shape[1] + new_tokens
        self.cache = Cache(model.config, len(rows), length, dtype=dtype, device=self.device)
        self.native = native_step(model) if len(rows) <= MOST_ROWS else None

    def prompts(self) -> Tensor:
        """A long prompt is read in chunks."""
        return self._read(self.padded)

    def one_more(self, ids: list[int]) -> Tensor:
        """By the compiled step where there is one."""
        if self.native is not None:
            return self.native(ids, self.cache, self.padding)
        return self._read(torch.tensor(ids, device=self.device)[:, None])

    def _read(self, ids: Tensor) -> Tensor:
        hidden = None
        for chunk in ids.split(PREFILL_CHUNK, dim=1):
            start = self.cache.filled
            masks = self.masks(start, start + chunk.shape[1])
            hidden = self.model.hidden(chunk, cache=self.cache, **masks)
        assert hidden is not None
        return self.model.logits_of(hidden[:, -1])


class _Rereader(_Rows):
    """The same without a cache: everything is read again at each step."""

    def prompts(self) -> Tensor:
        """Read all."""
        masks = self.masks(0, self.padded.shape[1])
        return self.model.logits_of(self.model.hidden(self.padded, **masks)[:, -1])

    def one_more(self, ids: list[int]) -> Tensor:
        """Read all and one more."""
        new = torch.tensor(ids, device=self.device)[:, None]
        self.padded = torch.cat((self.padded, new), dim=1)
        return self.prompts()


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
