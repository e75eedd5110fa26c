"""A text in, a text out: translation, summaries, by encoder–decoders and by decoders alone.

Knows: how a pair is put before a model. An encoder–decoder reads the source as `generate` gives it
to it; a decoder reads a conversation with one message, or, without a chat template, the source and
a line break, and learns the answer alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from yantai.data.batch import IGNORED
from yantai.data.examples import Example, ExampleRows
from yantai.tasks.frame import Frame
from yantai.text.chat import ChatFormat
from yantai.text.tokenizer import TURN_END

MARGIN = 4  # a source that was cut and spelled anew may be a little longer


@dataclass(frozen=True)
class Asker:
    """What a model reads before it answers, the same in training and in use.

    Attributes:
        frame: of the model.
        source_length: tokens of a source; what is longer is cut at its end.
    """

    frame: Frame
    source_length: int

    @property
    def room(self) -> int:
        """Tokens of a source that are read, without those that the tokenizer puts around it."""
        if self.frame.shape == "encoder-decoder":
            return self.source_length - len(self.frame.tokenizer.prompt(""))
        return self.source_length

    @property
    def chat(self) -> ChatFormat | None:
        """The renderer of a decoder that has a template."""
        if self.frame.shape != "decoder" or not self.frame.tokenizer.chat_template:
            return None
        return ChatFormat(self.frame.tokenizer)

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        tokenizer = self.frame.tokenizer
        found = {tokenizer.eos_id, tokenizer.control.get(TURN_END)}
        return frozenset(id for id in found if id is not None)

    @property
    def answer_length(self) -> int:
        """Tokens that there is room for behind the longest source."""
        if self.frame.shape == "encoder-decoder":
            return self.frame.length - 1
        around = len(self.prompts(["a"])[0])
        return max(1, self.frame.length - self.source_length - around - MARGIN)

    def prompts(self, sources: Sequence[str]) -> list[list[int]]:
        """What is read of each source."""
        tokenizer, chat = self.frame.tokenizer, self.chat
        if self.frame.shape == "encoder-decoder":
            return [tokenizer.prompt(source)[: self.source_length] for source in sources]
        cut = [self._cut(source) for source in sources]
        if chat is not None:
            return [chat.render([_asked(source)], reply=True).ids for source in cut]
        between = tokenizer.encode("\n")
        return [self.frame.begin + tokenizer.encode(source) + between for source in cut]

    def _cut(self, source: str) -> str:
        """As much of a source as there is room for."""
        ids = self.frame.tokenizer.encode(source)
        if len(ids) <= self.source_length:
            return source
        return self.frame.tokenizer.decode(ids[: self.source_length])

    def examples(self, pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> list[Example]:
        """Pairs of source and answer, the answer learned with the token that ends it."""
        tokenizer, chat = self.frame.tokenizer, self.chat
        prompts = self.prompts([source for source, _ in pairs])
        sizes = map(len, tokenizer.encode_batch([source for source, _ in pairs]))
        found = []
        for (source, answer), prompt, size, name in zip(pairs, prompts, sizes, names, strict=True):
            cut = max(0, size - self.source_length)
            if chat is not None:
                turn = {"role": "assistant", "content": answer}
                rendered = chat.training_row([_asked(self._cut(source)), turn], name)
                found.append(replace(Example.of_text(rendered.ids, rendered.learn, name), cut=cut))
                continue
            said = tokenizer.encode(answer) + self.frame.end
            if self.frame.shape == "encoder-decoder":
                assert self.frame.start_id is not None
                found.append(
                    Example([self.frame.start_id, *said[:-1]], said, name, prompt, cut=cut)
                )
                continue
            targets = [IGNORED] * (len(prompt) - 1) + said
            found.append(Example(prompt + said[:-1], targets, name, cut=cut))
        return found

    def rows(self, examples: Sequence[Example], seed: int = 0) -> ExampleRows:
        """Several pairs a row."""
        beside = self.source_length if self.frame.shape == "encoder-decoder" else None
        return ExampleRows(examples, self.frame.length, source_length=beside, seed=seed)


def _asked(source: str) -> dict[str, str]:
    return {"role": "user", "content": source}


def asker_of(frame: Frame) -> Asker:
    """How a model is asked: a decoder keeps a third of its context for the answer."""
    if frame.shape == "encoder-decoder":
        return Asker(frame, frame.length)
    return Asker(frame, max(1, frame.length * 2 // 3 - 16))
