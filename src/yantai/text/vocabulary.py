"""Learning a vocabulary, in four ways: byte-level BPE, WordPiece, Unigram, single characters.

Knows: the trainers of `tokenizers` and what goes before and behind them. Knows nothing of the files
or of how the result is used. Each way gives the special tokens the first ids.

| way | what a token is | what is lost |
|---|---|---|
| `bpe` | bytes that often stand together (arXiv 1508.07909) | nothing |
| `unigram` | pieces whose probabilities explain the text best (arXiv 1804.10959) | nothing |
| `wordpiece` | beginnings and continuations of words (arXiv 1609.08144) | spaces, unknowns |
| `characters` | one character | characters that did not occur |
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from yantai.base.errors import DataError, UsageError

Kind = Literal["bpe", "unigram", "wordpiece", "characters"]
UNKNOWN = "<|unk|>"
# The pre-tokenizer of Qwen2, letter for letter: llama.cpp, onnxruntime-genai and vLLM know it.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def learn(
    kind: Kind,
    texts: Iterable[str],
    vocab_size: int,
    specials: tuple[str, ...],
    token_bytes: int | None,
) -> Backend:
    """A vocabulary of that kind.

    Args:
        kind: which way.
        texts: documents; read once, as a stream.
        vocab_size: entries in all, the special tokens and the 256 bytes included.
        specials: special tokens, in the order of their ids.
        token_bytes: no entry of a BPE vocabulary is longer.

    Raises:
        DataError: there is no text.
        UsageError: a limit on the length of entries where there is none to set, or fewer entries
            than a kind can do with.
    """
    if token_bytes is not None and kind != "bpe":
        raise UsageError("E203", "token_bytes", f"has no effect on the kind {kind!r}")
    counted = _Counted(texts)
    if kind == "characters":
        backend = _characters(counted, specials)
    elif kind == "wordpiece":
        backend = _wordpiece(counted, vocab_size, specials)
    elif kind == "unigram":
        backend = _unigram(counted, vocab_size, specials)
    else:
        backend = _bpe(counted, vocab_size, specials, token_bytes)
    if not counted.characters:
        raise DataError("E305", "tokenizer", "there is no text to learn a vocabulary from")
    return backend


class _Counted:
    """An iterable that knows afterwards how much went through it."""

    def __init__(self, texts: Iterable[str]):
        self._texts = texts
        self.characters = 0
        self.alphabet: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.characters += len(text)
            self.alphabet.update(text)
            yield text


def _bpe(
    texts: _Counted, vocab_size: int, specials: tuple[str, ...], token_bytes: int | None
) -> Backend:
    backend = Backend(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated")
    plain_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, plain_bytes])
    backend.decoder = decoders.ByteLevel()
    limit: Any = {} if token_bytes is None else {"max_token_length": token_bytes + 1}
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        **limit,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _wordpiece(texts: _Counted, vocab_size: int, specials: tuple[str, ...]) -> Backend:
    """BERT's: a Han character is a word, case is kept."""
    backend = Backend(models.WordPiece(unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*specials, UNKNOWN], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _unigram(texts: _Counted, vocab_size: int, specials: tuple[str, ...]) -> Backend:
    """SentencePiece's, with a token for each byte, so that nothing is unknown."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    special = [*specials, UNKNOWN]
    trainer = trainers.UnigramTrainer(
        vocab_size=max(len(special) + 1, vocab_size - len(BYTES) - len({*"".join(special)})),
        special_tokens=special,
        unk_token=UNKNOWN,
        show_progress=False,
    )
    try:
        backend.train_from_iterator(texts, trainer)
    except Exception as error:  # the library raises bare Exception
        if not texts.characters:
            raise DataError("E305", "tokenizer", "there is no text to learn from") from error
        least = len(texts.alphabet) + len(special) + len(BYTES) + len({*"".join(special)}) + 1
        if vocab_size >= least:
            raise
        raise UsageError(
            "E203", "vocab_size", "too small for the kind 'unigram': each character has an entry",
            expected=f"at least {least}", got=vocab_size,
        ) from error  # fmt: skip
    table = json.loads(backend.to_str())
    pieces = table["model"]["vocab"]
    ordinary = pieces[len(special) :]
    lowest = min((score for _, score in ordinary), default=0.0) - 10.0
    # no text may come out as a special token: what its name is spelled with has entries of its own,
    # and taking it whole never pays
    spelled = sorted({*"".join(special)} - {piece for piece, _ in ordinary})
    table["model"]["vocab"] = [
        *([piece, -1e6] for piece in special),
        *([piece, lowest] for piece in (*BYTES, *spelled)),
        *ordinary,
    ]
    table["model"]["byte_fallback"] = True
    rebuilt = Backend.from_str(json.dumps(table))
    space = decoders.Replace("▁", " ")
    rebuilt.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), space])
    return rebuilt


def _characters(texts: _Counted, specials: tuple[str, ...]) -> Backend:
    characters = sorted({character for text in texts for character in text})
    special = (*specials, UNKNOWN)
    vocabulary = {piece: id for id, piece in enumerate((*special, *characters))}
    backend = Backend(models.BPE(vocabulary, [], unk_token=UNKNOWN))
    backend.add_special_tokens(list(special))
    backend.decoder = decoders.Fuse()
    return backend
