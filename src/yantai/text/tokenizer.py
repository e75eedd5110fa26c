"""Text ↔ ids, over Hugging Face `tokenizers`.

Knows: special tokens, streaming, the files that
`transformers.AutoTokenizer` opens. Knows nothing of models or of chat.

Two rules hold everywhere:

- Text is only ever text. A user who writes `<|im_end|>` gets the ids of those ten characters; a
  control token is put in by its id, by code that means it (`chat.py`, `data/shards.py`).
- Streaming decodes bytes, so no character is ever cut.
"""

import codecs
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import processors

from yantai.base.errors import ModelFileError, UsageError
from yantai.base.files import write_atomic, write_json
from yantai.text.checked import check_tokenizer
from yantai.text.classic import read_classic, read_settings
from yantai.text.vocabulary import UNKNOWN, Kind, learn

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

BOS, EOS, PAD = "<|bos|>", "<|endoftext|>", "<|pad|>"
MAX_LENGTH = "model_max_length"
"""The setting that says how long the texts were that a model was taught with."""
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
MASK = "<|mask|>"
SPANS = tuple(f"<|span_{number}|>" for number in range(100))
SPECIALS = (BOS, EOS, PAD, TURN_START, TURN_END)
MAX_TOKENIZER_BYTES = 200_000_000
NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"
LONGEST_CHARACTER = 4
"""Bytes of UTF-8."""
BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
"""How vocabularies of characters spell a byte of one that they do not have."""
USUAL_NAMES = {
    "bos_token": (BOS, "<s>", "[CLS]"),
    "eos_token": (EOS, "</s>", "[SEP]"),
    "pad_token": (PAD, "<pad>", "[PAD]"),
    "mask_token": (MASK, "<mask>", "[MASK]"),
}
"""Of tokenizers whose settings do not say which token is which."""


class Tokenizer:
    """A tokenizer and the ids of its special tokens.

    Attributes:
        bos_id, eos_id, pad_id, mask_id: ids, or None where the tokenizer has no such token; what
            begins and ends a text may be called `cls` and `sep`.
        span_ids: the sentinels of span denoising in their order, if there are any.
        control: every special token and its id; none of them can come out of encoding text.
        chat_template: the Jinja source that travels with the tokenizer, or None.
    """

    def __init__(self, backend: Backend, settings: dict[str, Any] | None = None):
        self._backend = backend
        # the flag that makes a special token's name in a text plain text; it is not in the file
        self._backend.encode_special_tokens = True
        self._backend.no_padding()
        self._backend.no_truncation()
        self.settings = settings or {}
        added = backend.get_added_tokens_decoder()
        self.control = {token.content: id for id, token in added.items() if token.special}
        self.bos_id = self._special_id("bos_token", "cls_token")
        self.eos_id = self._special_id("eos_token", "sep_token")
        self.pad_id = self._special_id("pad_token")
        self.mask_id = self._special_id("mask_token")
        names = [
            name for name in self.control if re.fullmatch(r"<(\|span_|extra_id_)\d+\|?>", name)
        ]
        self.span_ids = tuple(
            self.control[name]
            for name in sorted(names, key=lambda name: int(re.sub(r"\D", "", name)))
        )
        self.chat_template: str | None = self.settings.get("chat_template")

    def _special_id(self, *keys: str) -> int | None:
        """The id of the first of these settings that names a token; else of a usual name."""
        for key in keys:
            value = self.settings.get(key)
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                return self._backend.token_to_id(content)
        if any(key in self.settings for key in keys):  # there is none, and the file says so
            return None
        usual = (name for name in USUAL_NAMES[keys[0]] if name in self.control)
        name = next(usual, None)
        return None if name is None else self.control[name]

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int = 8192,
        kind: Kind = "bpe",
        token_bytes: int | None = None,
        specials: tuple[str, ...] = (),
    ) -> "Tokenizer":
        """Learn a vocabulary.

        Args:
            texts: documents; read once, as a stream.
            vocab_size: entries, the five special tokens and 256 bytes included (BPE).
            kind: what a token is, see `vocabulary.py`.
            token_bytes: no entry is longer. Chinese has no spaces, so that a clause is one piece
                to the pre-tokenizer, and in a small, repetitive corpus whole clauses become
                entries, each name hidden in dozens of them; 8 bytes, two characters, prevent it.
            specials: further special tokens, such as `MASK` and `SPANS`.

        Raises:
            DataError: there is no text.
            UsageError: a limit on the length of entries where there is none to set.
        """
        backend = learn(kind, texts, vocab_size, (*SPECIALS, *specials), token_bytes)
        bos = backend.token_to_id(BOS)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
        )
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000_000,
        }
        if kind != "bpe":
            settings["unk_token"] = UNKNOWN
        return cls(backend, settings | ({"mask_token": MASK} if MASK in specials else {}))

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read the tokenizer of a folder.

        Raises:
            ModelFileError: there is none, or it cannot be read.
        """
        found = cls.find(folder)
        if found is None:
            path = folder / "tokenizer.json"
            raise ModelFileError(
                "E405", path, "the file is missing", do="give a folder made by `yantai tokenizer`"
            )
        return found

    @classmethod
    def find(cls, folder: Path) -> "Tokenizer | None":
        """The tokenizer of a folder, or None where it has none.

        That is tokenizer.json, or the files of GPT-2 and BERT from before (`classic.py`), with
        tokenizer_config.json and chat_template.jinja.

        Raises:
            ModelFileError: it cannot be read.
        """
        path = folder / "tokenizer.json"
        if path.is_file():
            backend, settings = _read_backend(path), read_settings(folder)
        else:
            classic = read_classic(folder)
            if classic is None:
                return None
            backend, settings = classic
        template = folder / "chat_template.jinja"
        if template.is_file():
            settings["chat_template"] = template.read_text(encoding="utf-8")
        return cls(backend, settings)

    def save(self, folder: Path) -> None:
        """Write the files that `load` and `transformers.AutoTokenizer` read."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "tokenizer.json", self._backend.to_str(pretty=True))
        settings = {key: value for key, value in self.settings.items() if key != "chat_template"}
        write_json(folder / "tokenizer_config.json", settings)
        if self.chat_template:
            write_atomic(folder / "chat_template.jinja", self.chat_template)

    def to_json(self) -> str:
        """The whole of tokenizer.json."""
        return self._backend.to_str()

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of what decides the ids: the same for the same vocabulary in any folder."""
        return hashlib.sha256(self._backend.to_str(pretty=False).encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: one more than the highest id."""
        return self._size

    @functools.cached_property
    def _size(self) -> int:
        ids = self._backend.get_vocab(with_added_tokens=True).values()
        return max(ids, default=-1) + 1

    @property
    def specials_of_a_pair(self) -> int:
        """Special tokens that its own form puts round two texts and between them; often none."""
        return self._backend.num_special_tokens_to_add(is_pair=True)

    def with_both_ends(self) -> "Tokenizer":
        """The same vocabulary, whose own form of a text is BOS text EOS, of two BOS a EOS b EOS.

        So whoever opens the folder with `transformers` reads what a model that judges has learned
        to read. Itself where it has that form, or has no such tokens.
        """
        bos, eos = self.bos_id, self.eos_id
        ends = [each for each in (bos, eos) if each is not None]
        sample = self.encode("a")
        whole = [*([bos] if bos is not None else []), *sample, *([eos] if eos is not None else [])]
        if not ends or self.prompt("a") == whole:
            return self
        begin = f"{self.token(bos)}:0 " if bos is not None else ""
        end = f" {self.token(eos)}" if eos is not None else ""
        close = [f"{end}:{kind}" if end else "" for kind in (0, 1)]
        backend = Backend.from_str(self.to_json())
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin}$A:0{close[0]}",
            pair=f"{begin}$A:0{close[0]} $B:1{close[1]}",
            special_tokens=[(self.token(each), each) for each in ends],
        )
        return Tokenizer(backend, dict(self.settings))

    def encode(self, text: str) -> list[int]:
        """The ids of a text, and of nothing but the text.

        Raises:
            UsageError: it has half of a surrogate pair, as bytes that are no UTF-8 become.
        """
        return self._encoded(text, add_special_tokens=False)

    def _encoded(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:
            raise UsageError(
                "E201", "text", "has bytes that are not valid UTF-8, or half of a surrogate pair",
                do="mend it, or the encoding of the terminal",
            ) from error  # fmt: skip

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, and the characters that each spells: begin, and after the end."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def prompt(self, text: str) -> list[int]:
        """The ids of a text with the special tokens that its beginning takes (one BOS, if any).

        Raises:
            UsageError: as of `encode`.
        """
        return self._encoded(text, add_special_tokens=True)

    def decode(
        self, ids: Sequence[int], *, skip_special: bool = True, after: Sequence[int] = (),
        cut: bool = False,
    ) -> str:  # fmt: skip
        """The text of ids; bytes that form no character show as U+FFFD.

        Args:
            ids: what is decoded.
            skip_special: leave control tokens out.
            after: what stands before and is not given out; some vocabularies drop the space that
                a text begins with, and a continuation is no beginning.
            cut: the text was ended at its longest: the character that had only begun is left out.
        """
        if cut and (begun := self._begun(ids, skip_special)):
            if self.bytes_of_ids is not None:
                text = self.decode(ids, skip_special=skip_special, after=after)
                return text.removesuffix(NO_CHARACTER)
            skipped = frozenset(self.control.values()) if skip_special else frozenset()
            ids = [id for id in ids if id not in skipped][:-begun]  # each is a byte
        text = self._backend.decode([*after, *ids], skip_special_tokens=skip_special)
        if not after:
            return text
        before = self._backend.decode(list(after), skip_special_tokens=skip_special)
        if text.startswith(before):
            return text[len(before) :]
        return self._backend.decode(list(ids), skip_special_tokens=skip_special)

    def _begun(self, ids: Sequence[int], skip_special: bool) -> int:
        """Bytes at the end that more bytes could make a character."""
        skipped = frozenset(self.control.values()) if skip_special else frozenset()
        last = [id for id in ids if id not in skipped][-LONGEST_CHARACTER:]
        if self.bytes_of_ids is not None:
            spelled = [self.bytes_of_ids[id] if id < len(self.bytes_of_ids) else b"" for id in last]
        else:  # a byte of a character without a token; what is no byte is whole
            found = [BYTE_TOKEN.fullmatch(self.token(id)) for id in last]
            spelled = [bytes.fromhex(byte[1]) if byte else b" " for byte in found]
        reader = codecs.getincrementaldecoder("utf-8")(errors="replace")
        reader.decode(b"".join(spelled))
        return len(reader.getstate()[0])

    def token(self, id: int) -> str:
        """The piece behind an id, as the vocabulary spells it."""
        return self._backend.id_to_token(id) or ""

    def stream(self, *, skip_special: bool = True, after: Sequence[int] = ()) -> "StreamDecoder":
        """A decoder that is fed one id at a time; arguments as for `decode`."""
        return StreamDecoder(self, skip_special, after)

    @functools.cached_property
    def longest(self) -> int:
        """Characters that a token may spell, at most: of a vocabulary of bytes, its bytes."""
        spelled = self.bytes_of_ids or list(self._backend.get_vocab())
        return max(map(len, spelled), default=1)

    @functools.cached_property
    def bytes_of_ids(self) -> list[bytes] | None:
        """The bytes of each id, where the vocabulary spells bytes; None for other kinds."""
        if type(self._backend.decoder).__name__ != "ByteLevel":
            return None
        to_byte = {char: byte for byte, char in _byte_characters().items()}
        table = []
        for id in range(self.vocab_size):
            piece = self.token(id)
            if piece in self.control or any(char not in to_byte for char in piece):
                table.append(piece.encode())
            else:
                table.append(bytes(to_byte[char] for char in piece))
        return table


class StreamDecoder:
    """Ids in, text out, as soon as whole characters are there.

    Bytes wait until their character is complete; `finish` gives what is never completed as U+FFFD,
    or leaves it out, just as decoding everything at once would.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool, after: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._skip = frozenset(tokenizer.control.values()) if skip_special else frozenset()
        self._table = tokenizer.bytes_of_ids
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ids = [id for id in after if id not in self._skip]
        self._shown = tokenizer.decode(self._ids, skip_special=False) if self._ids else ""

    def feed(self, id: int) -> str:
        """The text that this id completes; often one piece, sometimes nothing yet."""
        if id in self._skip:
            return ""
        if self._table is not None:
            return self._utf8.decode(self._table[id] if 0 <= id < len(self._table) else b"")
        self._ids.append(id)
        text = self._tokenizer.decode(self._ids, skip_special=False)
        if text.endswith("\ufffd") or not text.startswith(self._shown):
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new

    def finish(self, *, cut: bool = False) -> str:
        """What is left at the end; `cut` as for `Tokenizer.decode`."""
        if self._table is not None:
            return "" if cut else self._utf8.decode(b"", final=True)
        text = self._tokenizer.decode(self._ids, skip_special=False, cut=cut)
        return text[len(self._shown) :] if text.startswith(self._shown) else ""


def _read_backend(path: Path) -> Backend:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ModelFileError("E405", path, "too large", got=path.stat().st_size)
    content = path.read_bytes()
    check_tokenizer(content, str(path))
    try:
        return Backend.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise ModelFileError("E405", path, f"not a tokenizer ({error})") from error


@functools.cache
def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte (arXiv 1905.02019 came with this table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + index) for index, byte in enumerate(others)}


HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Han characters, as the inside of a regular expression's brackets."""
