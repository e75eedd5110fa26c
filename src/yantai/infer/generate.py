"""Ids in, ids out: the loop that continues prompts.

Knows: a model, prompts as ids, when to stop. Knows no text. Rows side by side are `reader.py`'s
business; what stands in one says nothing to another.
"""

from collections.abc import Iterator, Sequence

import torch

from yantai.adapt.quantize import lay_out
from yantai.base.errors import UsageError
from yantai.base.pages import LargePages
from yantai.base.pulse import pulse
from yantai.core.face import Model
from yantai.core.layers import Joint, Linear, itself
from yantai.core.mask import Mask
from yantai.core.stack import Memory
from yantai.infer.beam import beam_search
from yantai.infer.compiled import at_hand, compiled_step
from yantai.infer.reader import Reader, Rereader, Rows, encode_rows
from yantai.infer.row import Row, next_tokens
from yantai.infer.settings import Generation


def prepare(model: Model) -> Model:
    """Lay a model out for decoding: weights packed, no dropout, no gradients.

    Where the compiled step reads prompts as well as tokens, nothing has a second copy.
    """
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(each.numel() * each.element_size() for each in tensors)
    on_cpu = all(each.device.type == "cpu" for each in tensors)
    place = LargePages(size, len(tensors)).place if on_cpu else itself
    joints = [module for module in model.modules() if isinstance(module, Joint)]
    inside = {id(part) for joint in joints for part in joint.parts}
    matrices = [
        module for module in model.modules()
        if isinstance(module, Joint) or (isinstance(module, Linear) and id(module) not in inside)
    ]  # fmt: skip
    for module in matrices:
        module.pack(place)
    lay_out(model, place)
    model.eval().requires_grad_(False)
    native = compiled_step(model)
    if native is None or not native.reads_prompts:
        for module in matrices:
            module.lay_out()
    return model


def check_room(model: Model, prompt: Sequence[int], new_tokens: int) -> None:
    """Refuse what is no prompt, and what the positions of the model cannot hold.

    Raises:
        UsageError: the prompt is empty or has an id that is no token; or prompt and new tokens are
            longer than the context.
    """
    limit, known = model.config.max_positions, model.config.vocab_size
    if not prompt:
        raise UsageError("E201", "prompt", "empty", expected="at least one token")
    odd = next((id for id in prompt if not 0 <= id < known), None)
    if odd is not None:
        raise UsageError("E201", "prompt", "no such token", expected=f"0 to {known - 1}", got=odd)
    if model.config.position in ("relative", "sinusoidal", "none"):  # any length will do
        return
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
    model: Model,
    prompts: Rows,
    settings: Generation,
    stop_ids: frozenset[int] = frozenset(),
    *,
    sources: Rows | None = None,
    cached: bool = True,
) -> Iterator[list[int | None]]:
    """Continue prompts together, a token a step.

    Args:
        model: in evaluation mode.
        prompts: token ids; `num_return_sequences` copies of each are continued, side by side.
        settings: lengths, sampling, seed.
        stop_ids: tokens that end a row; the token itself is still given out.
        sources: what an encoder–decoder's encoder reads, one for each prompt.
        cached: False recomputes everything at each step (for tests).

    Yields:
        At each step, one new token for every row, or None for a row that has ended.
    """
    if settings.num_beams > 1:
        raise UsageError(
            "E201", "num_beams", "a search has no next token to give out before its end",
            do="do not stream",
        )  # fmt: skip
    copies = settings.num_return_sequences
    starts = [prompt for prompt in prompts for _ in range(copies)]
    rows = [Row(prompt, settings, stop_ids, number) for number, prompt in enumerate(starts)]
    for row in rows:
        check_room(model, row.ids, row.limit)
    if all(row.ended for row in rows):
        return
    limit = max(row.limit for row in rows)
    reader = _reader(model, [row.ids for row in rows], limit, sources, copies, cached)
    logits = at_hand(reader.prompts())
    alive = [number for number, row in enumerate(rows) if not row.ended]
    if len(alive) < len(rows):
        logits = logits[alive]
        reader.take(alive)
    while True:
        known = next_tokens(logits, [rows[number] for number in alive])
        chosen: list[int | None] = [None] * len(rows)
        for place, number in enumerate(alive):
            chosen[number] = rows[number].choose(logits[place], known[place])
        yield chosen
        left = [place for place, number in enumerate(alive) if not rows[number].ended]
        if not left:
            return
        if len(left) < len(alive):  # whoever has ended has no further positions
            reader.take(left)
            alive = [alive[place] for place in left]
        pulse()
        logits = at_hand(reader.one_more([rows[number].ids[-1] for number in alive]))


def _reader(
    model: Model,
    rows: Rows,
    new_tokens: int,
    sources: Rows | None,
    copies: int,
    cached: bool,
) -> Reader | Rereader:
    """Rows stand beside each other, `copies` of each prompt; a source is encoded once a prompt."""
    memory = None
    if model.config.shape == "encoder":
        raise UsageError("E201", "model", "an encoder continues nothing")
    if (sources is None) == (model.config.shape == "encoder-decoder"):
        raise UsageError("E201", "sources", "an encoder–decoder reads sources, a decoder none")
    if sources is not None:
        for source in sources:
            check_room(model, source, 0)
        hidden, mask = encode_rows(model, sources)
        valid = mask.valid.repeat_interleave(copies, 0) if mask.valid is not None else None
        memory = Memory(hidden.repeat_interleave(copies, 0), Mask(valid=valid))
    return Reader(model, rows, new_tokens, memory) if cached else Rereader(model, rows, memory)


@torch.inference_mode()
def generate_ids(
    model: Model,
    prompts: Rows,
    settings: Generation,
    stop_ids: frozenset[int] = frozenset(),
    *,
    sources: Rows | None = None,
    cached: bool = True,
) -> list[list[int]]:
    """Prompts with their continuations, `num_return_sequences` rows each, end token included.

    Arguments as for `steps`.
    """
    if settings.num_beams > 1:
        limits = [settings.new_tokens(len(prompt)) for prompt in prompts]
        for prompt, limit in zip(prompts, limits, strict=True):
            check_room(model, prompt, limit)
        copies = settings.num_beams
        rows = [list(prompt) for prompt in prompts for _ in range(copies)]
        reader = _reader(model, rows, max(limits), sources, copies, cached)
        return beam_search(reader, prompts, limits, settings, stop_ids)
    rows = [list(prompt) for prompt in prompts for _ in range(settings.num_return_sequences)]
    for chosen in steps(model, prompts, settings, stop_ids, sources=sources, cached=cached):
        for row, token in zip(rows, chosen, strict=True):
            if token is not None:
                row.append(token)
    return rows
