"""The networks before the Transformer, behind the same face: RNN, LSTM, GRU, and GRU to GRU.

Knows: a state that goes from token to token; torch scans it. A row may hold several documents, and
padding: each document is a run with a state of its own, as nobody looks across a border elsewhere.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.cache import States
from yantai.core.config import RecurrentConfig
from yantai.core.face import Hidden, Ids, Model, Positions
from yantai.core.head import Head
from yantai.core.kernel import attend
from yantai.core.layers import Linear, dropout
from yantai.core.mask import Mask
from yantai.core.stack import Memory

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
SCANS: dict[str, Any] = {"rnn": torch.rnn_tanh, "lstm": torch.lstm, "gru": torch.gru}

State = tuple[Float[Tensor, "layer run width"], ...]


class Runs(NamedTuple):
    """Tokens that one state passes through, several beside each other, the longest first.

    Attributes:
        rows, begins: of each run: its row in the batch, its first place there.
        lengths: tokens of each run.
        index: flat places of all tokens: the first of each run, the second of each run, …
        sizes: how many runs have a first token, a second one, …; always in main memory.
    """

    rows: Int[Tensor, "run"]
    begins: Int[Tensor, "run"]
    lengths: Int[Tensor, "run"]
    index: Int[Tensor, "token"]
    sizes: Int[Tensor, "step"]


def find_runs(mask: Mask, batch: int, count: int, start: int = 0) -> Runs | None:
    """The documents of a batch without its padding; None where each row is one whole document.

    Args:
        mask: `documents` (−1 is padding) and `valid` count, order is understood.
        batch: rows.
        count: places of a row.
        start: the place of the first of them among the keys.
    """
    said = mask.documents if mask.documents is not None else mask.valid
    if said is None:
        return None
    labels = torch.zeros((batch, count), dtype=torch.long)
    if mask.documents is not None:
        labels = mask.documents.cpu().long().expand(batch, -1)[:, start : start + count]
    if mask.valid is not None:
        valid = mask.valid.cpu().expand(batch, -1)[:, start : start + count]
        labels = labels.masked_fill(~valid, -1)
    if bool((labels == labels[:, :1]).all()) and bool((labels >= 0).all()):
        return None
    is_first = torch.ones_like(labels, dtype=torch.bool)
    is_first[:, 1:] = labels[:, 1:] != labels[:, :-1]
    places = is_first.flatten().nonzero()[:, 0]
    lengths = torch.diff(places, append=torch.tensor([batch * count]))
    order = lengths.argsort(descending=True, stable=True)
    order = order[labels.flatten()[places[order]] >= 0]
    places, lengths = places[order], lengths[order]
    steps = torch.arange(int(lengths[0]) if len(lengths) else 0)
    there = steps[:, None] < lengths
    rows, begins, index = places // count, places % count, (places + steps[:, None])[there]
    rows, begins, lengths, index = (each.to(said.device) for each in (rows, begins, lengths, index))
    return Runs(rows, begins, lengths, index, there.sum(1))


class Cell(nn.Module):
    """The matrices of one layer in one direction: for what comes in, and for the state."""

    def __init__(self, inputs: int, hidden: int, gates: int):
        super().__init__()
        self.read = Linear(inputs, gates * hidden, bias=True)
        self.keep = Linear(hidden, gates * hidden, bias=True)

    def weights(self, dtype: torch.dtype) -> list[Tensor]:
        """In the order that torch's scans want them."""
        biases = [part.bias for part in (self.read, self.keep) if part.bias is not None]
        return [each.to(dtype) for each in (self.read.weight, self.keep.weight, *biases)]


class Layer(nn.Module):
    """One network of a chain; where it reads both ways, half of the state goes each way."""

    def __init__(self, inputs: int, hidden: int, gates: int, *, both_ways: bool):
        super().__init__()
        width = hidden // 2 if both_ways else hidden
        self.forth = Cell(inputs, width, gates)
        self.back = Cell(inputs, width, gates) if both_ways else None

    def weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Of both directions."""
        cells = [self.forth] if self.back is None else [self.forth, self.back]
        return [weight for cell in cells for weight in cell.weights(dtype)]


class Chain(nn.Module):
    """Networks on top of each other; each reads the states of the one below."""

    def __init__(self, config: RecurrentConfig, *, both_ways: bool, out: bool = True):
        super().__init__()
        self.config, self.both_ways = config, both_ways
        self.width = config.hidden // 2 if both_ways else config.hidden
        inputs = [config.dim] + [config.hidden] * (config.layers - 1)
        gates = GATES[config.kind]
        self.blocks = nn.ModuleList(
            Layer(each, config.hidden, gates, both_ways=both_ways) for each in inputs
        )
        narrows = out and config.hidden != config.dim
        self.out = Linear(config.hidden, config.dim) if narrows else None

    def blank(self, runs: int, like: Tensor) -> State:
        """States of networks that have read nothing."""
        count = len(self.blocks) * (2 if self.both_ways else 1)
        zeros = like.new_zeros((count, runs, self.width))
        return (zeros, zeros) if self.config.kind == "lstm" else (zeros,)

    def forward(
        self, x: Float[Tensor, "batch position dim"], runs: Runs | None, state: State
    ) -> tuple[Float[Tensor, "batch position hidden"], State]:
        """States of the last network at each place, and where each run ended."""
        if runs is None:
            return self._scan(x, None, state)
        flat = x.flatten(0, 1)
        states, ends = self._scan(flat[runs.index], runs.sizes, state)
        whole = states.new_zeros((len(flat), states.shape[-1]))
        return whole.index_copy(0, runs.index, states).unflatten(0, x.shape[:2]), ends

    def _scan(self, x: Tensor, sizes: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Layer by layer: dropout between them is then a function of the seed on a GPU too."""
        scan, ways = SCANS[self.config.kind], 2 if self.both_ways else 1
        ends: list[tuple[Tensor, ...]] = []
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Layer)
            if number:
                x = dropout(x, self.config.dropout, self.training)
            begin = tuple(part[ways * number : ways * (number + 1)] for part in state)
            first = begin if self.config.kind == "lstm" else begin[0]
            kind = (block.weights(x.dtype), True, 1, 0.0, self.training, self.both_ways)
            inputs = (x, first, *kind, True) if sizes is None else (x, sizes, first, *kind)
            x, *end = scan(*inputs)
            ends.append(tuple(end))
        return x, tuple(torch.cat(parts) for parts in zip(*ends, strict=True))


class Gather(nn.Module):
    """Each state looks at all that was read, and both make what the head reads."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.start = Linear(config.dim, config.layers * config.hidden, bias=True)
        self.query = Linear(config.hidden, config.dim)
        self.mix = Linear(config.dim + config.hidden, config.dim, bias=True)

    def begin(self, memory: Memory, runs: Runs | None, queries: int) -> Tensor:
        """The first states: of the mean of what each run may see. Shape "layer run hidden"."""
        hidden, mask = memory
        allowed = mask.dense(queries, hidden.shape[1], hidden.device)
        if allowed is None:
            allowed = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=hidden.device)
        allowed = allowed.expand(len(hidden), 1, queries, hidden.shape[1])[:, 0]
        if runs is None:
            seen = allowed[:, 0]
        else:
            seen, hidden = allowed[runs.rows, runs.begins], hidden[runs.rows]
        share = seen.to(hidden.dtype) / seen.sum(1, keepdim=True).clamp_min(1).to(hidden.dtype)
        mean = (share[:, None] @ hidden)[:, 0]
        states = self.start(mean).tanh().unflatten(1, (-1, self.query.inputs))
        return states.transpose(0, 1).contiguous()

    def forward(self, states: Tensor, memory: Memory) -> Hidden:
        """tanh(W·[seen, state])."""
        keys = memory.hidden[:, None]
        seen = attend(self.query(states)[:, None], keys, keys, memory.mask, 1.0, 0.0)[:, 0]
        return self.mix(torch.cat((seen, states), dim=-1)).tanh()


class Recurrent(Model):
    """A recurrent language model, or two networks that turn one sequence into another."""

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        self.encoder = self.gather = None
        if config.shape == "encoder-decoder":
            self.encoder = Chain(config, both_ways=True)
            self.gather = Gather(config)
        self.decoder = Chain(config, both_ways=False, out=self.gather is None)
        self.head = Head(config)
        self.tie()

    def new_cache(
        self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> States:
        """A state is as large as ever, whatever was read."""
        return States()

    def encode(
        self,
        ids: Ids,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        types: Positions | None = None,
    ) -> Memory:
        """What both directions make of each token; a state knows its place without being told."""
        assert self.encoder is not None, "this model has no encoder"
        mask = mask or Mask()
        x = self._embedded(ids)
        runs = find_runs(mask, *ids.shape)
        state = self.encoder.blank(len(ids) if runs is None else len(runs.rows), x)
        hidden, _ends = self.encoder(x, runs, state)
        return Memory(self._out(self.encoder, hidden), Mask(valid=mask.valid))

    def hidden(
        self,
        ids: Ids,
        *,
        mask: Mask | None = None,
        positions: Positions | None = None,
        types: Positions | None = None,
        cache: States | None = None,
        memory: Memory | None = None,
    ) -> Hidden:
        """As the face says; a state knows its place without being told."""
        mask = mask or Mask()
        filled = cache.filled if cache is not None else 0
        runs = find_runs(mask, *ids.shape, start=filled)
        x = self._embedded(ids)
        if cache is not None and not cache.values:
            cache.values = self._begin(x, memory, None)
        if cache is None:
            state = self._begin(x, memory, runs)
        elif runs is None:
            state = cache.values
        else:
            state = tuple(value.index_select(1, runs.rows) for value in cache.values)
        states, ends = self.decoder(x, runs, state)
        if cache is not None:
            if runs is not None:  # rows that are padding still keep their state
                pairs = zip(cache.values, ends, strict=True)
                ends = tuple(old.index_copy(1, runs.rows, new) for old, new in pairs)
            cache.advance(ids.shape[1], ends)
        if self.gather is None:
            return self._out(self.decoder, states)
        assert memory is not None, "an encoder–decoder reads a memory"
        return dropout(self.gather(states, memory), self.config.dropout, self.training)

    def _begin(self, x: Tensor, memory: Memory | None, runs: Runs | None) -> State:
        state = self.decoder.blank(len(x) if runs is None else len(runs.rows), x)
        if self.gather is None or memory is None:
            return state
        return (self.gather.begin(memory, runs, x.shape[1]), *state[1:])

    def _embedded(self, ids: Ids) -> Hidden:
        x = self.embed(ids)
        x = x.to(self.compute_dtype or x.dtype)
        return dropout(x, self.config.dropout, self.training)

    def _out(self, chain: Chain, states: Tensor) -> Hidden:
        states = dropout(states, self.config.dropout, self.training)
        return states if chain.out is None else chain.out(states)
