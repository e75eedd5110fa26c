"""The object that people hold: a model, its tokenizer, its chat format.

Knows: text at the door, ids inside. Everything it does is a few lines over the rooms below.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from yantai.base.config import build
from yantai.base.errors import ModelFileError, UsageError
from yantai.base.files import check_replaceable, new_folder
from yantai.core.face import Model
from yantai.core.mask import valid_keys
from yantai.families.folder import save_folder, special_ids
from yantai.families.packed_folder import forms_of, is_packed, save_packed
from yantai.families.rules import Family
from yantai.infer.engine import Engine
from yantai.infer.generate import generate_ids, prepare, steps
from yantai.infer.settings import Generation
from yantai.infer.stops import HoldBack, cut_at_stop
from yantai.tasks.frame import Frame
from yantai.text.chat import ChatFormat, Message
from yantai.text.tokenizer import MAX_LENGTH, TURN_END, Tokenizer


@dataclass(frozen=True)
class TokenScore:
    """One token of a text and ln p(token | what stands before)."""

    token: str
    id: int
    log_probability: float


class LanguageModel:
    """A causal language model with its tokenizer.

    Args:
        network: the weights.
        family: whose names its folder uses.
        tokenizer: None for a folder without one: ids in, logits out.
        eos_ids: tokens that end a text.
        start_id: what an encoder–decoder's decoder reads first.
    """

    def __init__(
        self,
        network: Model,
        family: Family,
        tokenizer: Tokenizer | None = None,
        eos_ids: frozenset[int] = frozenset(),
        start_id: int | None = None,
    ):
        self.network, self.family = prepare(network), family
        self._tokenizer = tokenizer
        self.eos_ids, self.start_id = eos_ids, start_id

    @property
    def shape(self) -> str:
        """decoder, encoder or encoder-decoder."""
        return self.network.config.shape

    @property
    def job(self) -> str:
        """What a model does that judges, such as classify; "" for a language model."""
        return self.family.job

    @property
    def frame(self) -> Frame:
        """How a text becomes what the network reads."""
        start = self.first_ids()[0] if self.shape == "encoder-decoder" else None
        return Frame(self.tokenizer, self.shape, self.length, start)

    @property
    def length(self) -> int:
        """Tokens of the longest text that is read at once."""
        taught = self.tokenizer.settings.get(MAX_LENGTH)
        length = self.network.config.max_positions
        any_length = self.network.config.position not in ("learned", "rotary")
        if isinstance(taught, int | float) and 2 < taught < (1e6 if any_length else length):
            return int(taught)
        return length

    def must_be_for(self, job: str) -> None:
        """Refuse to do with a model what its head was not made for.

        Raises:
            UsageError: it is made for another job, or for none.
        """
        if self.job != job:
            raise UsageError(
                "E201", "model", f"is not made for {job}", expected=f"a model for {job}",
                got=f"a model for {self.job or 'language'}",
                do=f"make one with yantai finetune --task {job}",
            )  # fmt: skip

    def _refuse_others(self) -> None:
        if self.job:
            raise UsageError(
                "E201", "model", f"is made for {self.job} and writes no text",
                do=f"use yantai.{self.job}, or yantai predict",
            )  # fmt: skip
        if self.shape == "encoder":
            raise UsageError(
                "E201", "model", "an encoder continues no text", do="ask it for logits instead"
            )

    @property
    def has_tokenizer(self) -> bool:
        """Whether texts go in, not only ids."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ModelFileError: the folder has none.
        """
        if self._tokenizer is None:
            raise ModelFileError(
                "E405", "tokenizer.json", "the model folder has no tokenizer", do="pass ids instead"
            )
        return self._tokenizer

    @property
    def chat_format(self) -> ChatFormat:
        """The renderer of conversations."""
        return ChatFormat(self.tokenizer)

    def _encode(self, prompt: str) -> list[int]:
        ids = self.tokenizer.prompt(prompt)
        if not ids and self.tokenizer.bos_id is not None:
            return [self.tokenizer.bos_id]
        return ids

    @overload
    def generate(self, prompt: str, **settings: Any) -> str | list[str]: ...
    @overload
    def generate(self, prompt: Sequence[str], **settings: Any) -> list[str]: ...
    def generate(self, prompt: str | Sequence[str], **settings: Any) -> str | list[str]:
        """Continue one prompt or several; settings are those of `Generation`.

        Returns:
            The prompt with its continuation, special tokens left out (of an encoder–decoder, what
            it makes of the prompt, alone): a text, or a list of them for several prompts or
            `num_return_sequences` above 1.

        >>> model.generate("Once upon a time", max_new_tokens=50, temperature=0.7)  # doctest: +SKIP
        """
        self._refuse_others()
        chosen = build(Generation, settings, "generate")
        single = isinstance(prompt, str)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        encoded = [self._encode(text) for text in prompts]
        if self.shape == "encoder-decoder":
            texts = self._answer(encoded, chosen)
            return texts[0] if single and len(texts) == 1 else texts
        texts = []
        repeated = [text for text in prompts for _ in range(chosen.num_return_sequences)]
        starts = [len(ids) for ids in encoded for _ in range(chosen.num_return_sequences)]
        rows = generate_ids(self.network, encoded, chosen, self.eos_ids)
        for text, start, row in zip(repeated, starts, rows, strict=True):
            cut = row[-1] not in self.eos_ids
            new = self.tokenizer.decode(row[start:], after=row[:start], cut=cut)
            texts.append(text + cut_at_stop(new, chosen.stop))
        return texts[0] if single and len(texts) == 1 else texts

    def _answer(self, sources: list[list[int]], settings: Generation) -> list[str]:
        """What the decoder makes of each source."""
        start = [self.first_ids()] * len(sources)
        rows = generate_ids(self.network, start, settings, self.eos_ids, sources=sources)
        texts = [self.tokenizer.decode(row, cut=row[-1] not in self.eos_ids) for row in rows]
        return [cut_at_stop(text, settings.stop) for text in texts]

    def first_ids(self) -> list[int]:
        """What an encoder–decoder's decoder reads first.

        Raises:
            ModelFileError: the folder does not say.
        """
        if self.start_id is None:
            raise ModelFileError(
                "E401", "config.json:decoder_start_token_id", "the field is missing",
                do="say what the decoder reads first",
            )  # fmt: skip
        return [self.start_id]

    def stream(
        self, prompt: str | Sequence[int], *, engine: Engine | None = None, **settings: Any
    ) -> Iterator[str]:
        """The continuation alone, in pieces of whole characters, as they come.

        Args:
            prompt: a text, or ids (a rendered conversation).
            engine: one of this model's, which remembers what it has read; the text is the same in
                float32.
            settings: those of `Generation`.
        """
        self._refuse_others()
        chosen = build(Generation, settings, "stream")
        ids = self._encode(prompt) if isinstance(prompt, str) else list(prompt)
        sources = None
        before = ids if isinstance(prompt, str) else []  # a conversation's answer is a beginning
        if self.shape == "encoder-decoder":
            ids, sources, before = self.first_ids(), [ids], []
        ends = self.ends_of(prompt)
        decoder = self.tokenizer.stream(after=before)
        held = HoldBack(chosen.stop)
        rows = steps(self.network, [ids], chosen, ends, sources=sources)
        tokens = (row[0] for row in rows) if engine is None else engine.tokens(ids, chosen, ends)
        is_cut = True
        for token in tokens:
            if token is None or token in ends:
                is_cut = False
                break
            piece = held.feed(decoder.feed(token))
            if piece:
                yield piece
            if held.stopped:
                return
        rest = held.feed(decoder.finish(cut=is_cut)) + held.finish()
        if rest:
            yield rest

    @overload
    def chat(
        self, messages: Sequence[Message], *, stream: Literal[True], **settings: Any
    ) -> Iterator[str]: ...
    @overload
    def chat(
        self, messages: Sequence[Message], *, stream: Literal[False] = False, **settings: Any
    ) -> str: ...
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: bool = False,
        engine: Engine | None = None,
        **settings: Any,
    ) -> str | Iterator[str]:
        """The assistant's next message.

        Args:
            messages: tables with `role` and `content`. A conversation that has outgrown the
                context loses its oldest exchanges first (see `text/chat.py`).
            stream: give the text in pieces as it comes.
            engine: as for `stream`.
            settings: those of `Generation`; `max_new_tokens` is 256 by default, or what fits.
        """
        room = self.network.config.max_positions
        if settings.get("max_new_tokens") is None and settings.get("max_length") is None:
            settings["max_new_tokens"] = min(256, max(1, room // 2))
        new_tokens = build(Generation, settings, "chat").new_tokens(0)
        if new_tokens >= room:
            raise UsageError("E201", "max_new_tokens", "leaves no room", expected=f"under {room}")
        _, rendered = self.chat_format.fit(messages, room - new_tokens)
        pieces = self.stream(rendered.ids, engine=engine, **settings)
        return pieces if stream else "".join(pieces)

    def chat_batch(
        self, conversations: Sequence[Sequence[Message]], *, batch: int = 32, **settings: Any
    ) -> list[str]:
        """The assistant's next message in each of many conversations, several at a time.

        Args:
            conversations: each a list of messages.
            batch: how many are continued together; the result does not depend on it.
            settings: those of `Generation`; `max_new_tokens` is needed.
        """
        chosen = build(Generation, settings, "chat_batch")
        room = self.network.config.max_positions - chosen.new_tokens(0)
        chat, ends = self.chat_format, self._turn_ends()
        prompts = [chat.fit(messages, room)[1].ids for messages in conversations]
        # neighbours of like length waste no padding
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        replies = [""] * len(prompts)
        for start in range(0, len(order), batch):
            numbers = order[start : start + batch]
            rows = generate_ids(self.network, [prompts[number] for number in numbers], chosen, ends)
            for number, row in zip(numbers, rows, strict=True):
                text = self.tokenizer.decode(row[len(prompts[number]) :], cut=row[-1] not in ends)
                replies[number] = cut_at_stop(text, chosen.stop)
        return replies

    def ends_of(self, prompt: str | Sequence[int]) -> frozenset[int]:
        """What ends the continuation of a text, or of ids, which may be of a conversation."""
        return self.eos_ids if isinstance(prompt, str) else self._turn_ends()

    def _turn_ends(self) -> frozenset[int]:
        turn_end = self.tokenizer.control.get(TURN_END)
        return self.eos_ids | ({turn_end} if turn_end is not None else set())

    @torch.inference_mode()
    def logits(
        self,
        ids: Tensor | Sequence[int] | Sequence[Sequence[int]],
        decoder_ids: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Float[batch, position, vocab]: the logits at each position.

        Args:
            ids: one row or a batch of equal rows.
            decoder_ids: what an encoder–decoder's decoder reads; `ids` are its source then.
            mask: 1 for tokens, 0 for padding (on either side), of the shape of `ids`.
        """
        model, seen = self.network, self._padding(mask)
        if (decoder_ids is None) == (self.shape == "encoder-decoder"):
            raise UsageError("E201", "decoder_ids", "an encoder–decoder reads them, others do not")
        if decoder_ids is None:
            return model(self._rows(ids), **seen)
        return model(self._rows(decoder_ids), memory=model.encode(self._rows(ids), **seen))

    def _rows(self, ids: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        tensor = torch.as_tensor(ids, device=next(self.network.parameters()).device)
        return tensor[None] if tensor.ndim == 1 else tensor

    def _padding(self, mask: Tensor | None) -> dict[str, Any]:
        if mask is None:
            return {}
        valid = torch.as_tensor(mask, device=next(self.network.parameters()).device).bool()
        valid = valid[None] if valid.ndim == 1 else valid
        positions = (valid.long().cumsum(-1) - 1).clamp_min(0)
        return {"mask": valid_keys(valid), "positions": positions}

    @torch.inference_mode()
    def score(self, text: str) -> list[TokenScore]:
        """ln p of each token of a text, for sentences and rankings; its first token counts too.

        Raises:
            UsageError: the text is empty or longer than the context, or the model no decoder.
        """
        if self.shape != "decoder" or self.job:
            raise UsageError(
                "E201", "model", "only a decoder scores texts", got=self.job or self.shape
            )
        plain = self.tokenizer.encode(text)
        start = (
            self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.eos_id
        )
        ids = ([start] if start is not None else []) + plain
        limit = self.network.config.max_positions
        if len(ids) < 2 or len(ids) > limit + 1:
            raise UsageError("E201", "text", "no tokens, or too many", expected=f"1 to {limit}")
        device = next(self.network.parameters()).device
        row = torch.tensor([ids], device=device)
        hidden = self.network.hidden(row[:, :-1])[0]
        logs = self.network.log_probabilities(hidden, row[0, 1:])
        return [
            TokenScore(self.tokenizer.decode([id], skip_special=False), id, log)
            for id, log in zip(ids[1:], logs.tolist(), strict=True)
        ]

    def save(self, folder: str | Path) -> None:
        """Write a folder that `yantai.load` and `transformers` open; a model there is replaced.

        Raises:
            UsageError: a file or a folder with other things has that name.
        """
        check_replaceable(Path(folder))
        with new_folder(Path(folder)) as temporary:
            self.write_into(temporary)

    def write_into(self, folder: Path) -> None:
        """The same into an existing folder."""
        tokenizer = self._tokenizer
        special = special_ids(tokenizer, self.shape, self.eos_ids, self.start_id)
        if is_packed(self.network):
            forms = forms_of(self.network)
            save_packed(self.network, self.family, folder, *forms, special=special)
        else:
            save_folder(self.network, self.family, folder, special=special)
        if tokenizer is not None:
            tokenizer.save(folder)
