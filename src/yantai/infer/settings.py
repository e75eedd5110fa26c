"""How to continue a text, as data. Names and meanings are those of `transformers`.

Knows: ranges and contradictions. One difference: asking for a temperature, top_k, top_p or min_p
means sampling, where `transformers` ignores them silently unless `do_sample=True` stands beside.
"""

from typing import Literal

from pydantic import Field, model_validator

from yantai.base.config import Config

SAMPLING = ("temperature", "top_k", "top_p", "min_p")

COLDEST, SMALLEST = 1e-4, 1e-6
"""Of temperature and top-p: below these all is drawn as at them, which float32 can still tell."""


class Generation(Config):
    """Settings of one generation; a setting that could have no effect is an error."""

    max_new_tokens: int | None = Field(None, ge=1, description="tokens to add; 50 by default")
    max_length: int | None = Field(None, ge=1, description="tokens in all, prompt included")
    do_sample: bool | None = Field(None, description="draw tokens instead of taking the likeliest")
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy")
    top_k: int | None = Field(None, ge=1, description="draw among this many likeliest tokens")
    top_p: float | None = Field(None, gt=0, le=1, description="draw among this probability mass")
    min_p: float | None = Field(None, ge=0, le=1, description="least share of the top probability")
    repetition_penalty: float = Field(1.0, gt=0, description="divides logits of tokens seen")
    presence_penalty: float = Field(0.0, description="taken from logits of tokens already said")
    frequency_penalty: float = Field(0.0, description="the same, for each time they were said")
    no_repeat_ngram_size: int = Field(0, ge=0, description="no n-gram of this size twice")
    num_return_sequences: int = Field(1, ge=1, le=1024, description="continuations of a prompt")
    num_beams: int = Field(1, ge=1, le=256, description="continuations followed at a time")
    length_penalty: float = Field(1.0, description="beams: ln p is divided by length to this power")
    early_stopping: bool | Literal["never"] = Field(
        False, description="beams: stop when enough have ended; never: only when none can improve"
    )
    forced_first_id: int | None = Field(None, ge=0, description="the first new token")
    forced_last_id: int | None = Field(None, ge=0, description="the token at the length limit")
    stop: tuple[str, ...] = Field((), description="texts that end a continuation")
    seed: int = Field(0, ge=0, description="decides what is drawn")

    @model_validator(mode="after")
    def _agree(self) -> "Generation":
        if self.max_new_tokens is not None and self.max_length is not None:
            raise ValueError("max_new_tokens and max_length contradict each other; give one")
        asked = [
            name
            for name in SAMPLING
            if getattr(self, name) is not None
            and not (name == "temperature" and not self.temperature)
        ]
        if asked and self.do_sample is False:
            raise ValueError(f"do_sample=False and {asked[0]} contradict each other; drop one")
        if self.temperature == 0 and self.do_sample:
            raise ValueError("temperature=0 is greedy and do_sample=True is not; drop one")
        if self.temperature == 0 and asked:
            raise ValueError(f"temperature=0 is greedy, {asked[0]} can have no effect; drop one")
        if self.num_beams > 1 and self.samples:
            raise ValueError("num_beams searches for the likeliest; drop it, or what samples")
        if self.num_beams > 1 and (self.presence_penalty or self.frequency_penalty):
            raise ValueError("num_beams has no penalty for what was said; drop one")
        if self.num_beams == 1 and (self.length_penalty != 1.0 or self.early_stopping):
            raise ValueError("length_penalty and early_stopping need num_beams above 1")
        most = self.num_return_sequences if self.samples else self.num_beams
        if self.num_return_sequences > most:
            raise ValueError(
                "num_return_sequences above 1 needs sampling, or as many beams: greedy gives the "
                "same text each time"
            )
        if any(not text for text in self.stop):
            raise ValueError("an empty stop text would end everything at once")
        return self

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        if self.temperature == 0:
            return False
        return bool(self.do_sample) or any(getattr(self, name) is not None for name in SAMPLING)

    @property
    def heat(self) -> float:
        """By which logits are divided where tokens are drawn."""
        return 1.0 if self.temperature is None else max(self.temperature, COLDEST)

    @property
    def share(self) -> float:
        """Of all chances, that the tokens have together among which is drawn."""
        return 1.0 if self.top_p is None else max(self.top_p, SMALLEST)

    @property
    def is_plain(self) -> bool:
        """Whether every token is the one with the largest logit, whatever was said before."""
        return not (self.samples or self.minds_what_was_said)

    @property
    def minds_what_was_said(self) -> bool:
        """Whether logits are changed by what was said before, or by how much."""
        changed = self.presence_penalty or self.frequency_penalty or self.no_repeat_ngram_size
        forced = self.forced_first_id is not None or self.forced_last_id is not None
        return bool(changed) or forced or self.repetition_penalty != 1.0

    def new_tokens(self, prompt_length: int) -> int:
        """How many tokens to add to a prompt."""
        if self.max_length is not None:
            return max(0, self.max_length - prompt_length)
        return self.max_new_tokens or 50
