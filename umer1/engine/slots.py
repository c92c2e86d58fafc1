"""The state of every running row, on the device, and what happens to it after the final norm.

One slot holds one row: what it reads next, where, how it samples, when it ends. Nothing here waits
for the device, and every operation takes fixed shapes: a CUDA graph can hold it.
Shapes: B rows of this step, S slots, H hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from umer1.engine.memory import to_device
from umer1.engine.pages import SCRATCH
from umer1.engine.requests import Sampling, SpecialTokens
from umer1_kernels import GenerationGather, sample_tokens

# columns of the integer state
(
    TOKEN,  # last token written: what the next step reads
    POSITION,  # its M-RoPE position, equal on all three axes
    LENGTH,  # tokens of the suffix in memory
    WRITTEN,  # tokens written
    LIMIT,  # most that may be written
    SEED,
    TOP_K,
    STOP_FIRST,  # 1: ends at its first <gen_emb>
    THINK_LIMIT,  # tokens after which </think> is forced
    THINK,  # tokens of </think> written in a row; all of them: thinking is over
    PREFIX,  # row of the prefix table
    FINISH,  # RUNNING or why it ended
    COLUMNS,
) = range(13)
RUNNING, GEN_EMB, EOS, LENGTH_LIMIT, EMPTY = range(5)
FINISH_NAMES = {GEN_EMB: "gen_emb", EOS: "eos", LENGTH_LIMIT: "length"}
NO_THINK_LIMIT = 1 << 40


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that starts: its slot, suffix pages and randomness; the prefix it continues (place in
    the prefix table, pages, tokens) and the M-RoPE position after it."""

    slot: int
    pages: list[int]
    seed: int
    sampling: Sampling
    place: int
    prefix_pages: list[int]
    prefix_length: int
    position: int


class Slots:
    """State of `count` slots; slot `count` itself is the spare one that rows without a request use:
    always finished, on the scratch page."""

    def __init__(
        self,
        count: int,
        width: int,
        special: SpecialTokens,
        device: torch.device,
        backend: str = "auto",
    ):
        self.count, self.special, self.device, self.backend = count, special, device, backend
        self.state = torch.zeros(count + 1, COLUMNS, dtype=torch.int64, device=device)
        self.state[:, FINISH] = EMPTY
        self.state[:, PREFIX] = -1
        self.draw = torch.zeros(count + 1, 2, device=device)  # temperature, top_p
        self.draw[:, 1] = 1.0
        gather = "auto" if backend == "cpu" else backend  # it has no compiled form
        self.gather = GenerationGather(
            count + 1, width, special.gen_id, device=device, backend=gather
        )
        self.suffix_table = self._table(count + 1, 1)
        self.prefix_table = self._table(count, 1)
        self.prefix_length = torch.zeros(count, dtype=torch.int32, device=device)
        self._think_end = torch.tensor(special.think_end or (0,), device=device)

    def start(self, rows: list[NewRow]) -> Tensor:
        """Put rows into their slots; returns the slots, int64 [rows] on the device."""
        state, draw = [], []
        for row in rows:
            sampling, think = row.sampling, row.sampling.max_think_tokens
            values = [0] * COLUMNS
            values[POSITION], values[PREFIX] = row.position, row.place
            values[LIMIT], values[TOP_K] = sampling.max_new_tokens, sampling.top_k
            values[SEED] = row.seed - (1 << 64) if row.seed >= 1 << 63 else row.seed
            values[STOP_FIRST] = int(sampling.stop == "first")
            values[THINK_LIMIT] = NO_THINK_LIMIT if think is None else think
            state.append(values)
            draw.append([sampling.temperature, sampling.top_p])
        slots = self._send([row.slot for row in rows])
        self.state.index_copy_(0, slots, self._send(state))
        self.draw.index_copy_(0, slots, self._send(draw, torch.float32))
        self._fill(self.suffix_table, slots, [row.pages for row in rows])
        self.gather.reset_(slots)
        prefixes = {row.place: row for row in rows}
        places = self._send(list(prefixes))
        self._fill(self.prefix_table, places, [row.prefix_pages for row in prefixes.values()])
        lengths = self._send([row.prefix_length for row in prefixes.values()], torch.int32)
        self.prefix_length.index_copy_(0, places, lengths)
        return slots

    def vectors_of(self, slots: list[int]) -> Tensor:
        """float32 [rows, H] of rows that have ended: a copy, their slots may be taken again."""
        return self.gather.vectors[self._send(slots)]

    def widen(self, prefix_pages: int, suffix_pages: int) -> bool:
        """Make the page tables wide enough; True if they moved (no graph that reads them holds)."""
        moved = False
        for name, wanted in (("prefix_table", prefix_pages), ("suffix_table", suffix_pages)):
            old = getattr(self, name)
            if wanted > old.shape[1]:
                new = self._table(old.shape[0], 1 << (wanted - 1).bit_length())
                new[:, : old.shape[1]] = old
                setattr(self, name, new)
                moved = True
        return moved

    def advance(
        self,
        rows: Tensor,
        hidden: Tensor,
        logits_of: Callable[[Tensor], Tensor],
        *,
        reading: bool,
        truncated: bool,
    ) -> Tensor:
        """What each row does with its state after the final norm: keep it as a vector, end, or
        write the next token.

        Args:
            rows: int64 [B], slots. hidden: [B, H].
            reading: these states come from reading the rows' own last tokens (False: from the
                prompt's last token, so nothing is read out and nothing was written yet).
            truncated: whether some row has a top-p or top-k.

        Returns:
            float64 [B, 4]: the token written (-1: none), its log-probability, why the row ended
            (RUNNING: it did not), whether it has a vector of a <gen_emb>.
        """
        state, special = self.state[rows], self.special
        token, written, limit = state[:, TOKEN], state[:, WRITTEN], state[:, LIMIT]
        stop_first = state[:, STOP_FIRST] == 1
        active = state[:, FINISH] == RUNNING
        ended = torch.zeros_like(active)
        if reading:
            self.gather.step_(hidden, token, rows, active)
            at_gen = active & (token == special.gen_id)
            ended = at_gen & (stop_first | (written == limit))
        going = active & ~ended
        sampled, logprob = self._sample(logits_of(hidden), rows, state, truncated)
        written = written + going
        hit = self.gather.hit[rows]
        # the step that reads a <gen_emb> always runs, also after the last allowed token
        full = (written == limit) & (sampled != special.gen_id)
        why = torch.where(full, LENGTH_LIMIT, RUNNING)
        why = torch.where(sampled == special.eos_id, torch.where(hit, GEN_EMB, EOS), why)
        at_end = torch.where(stop_first, GEN_EMB, LENGTH_LIMIT)
        why = torch.where(going, why, torch.where(ended, at_end, RUNNING))
        self._keep_last(rows, hidden, (why != RUNNING) & ~hit)
        state[:, TOKEN] = torch.where(going, sampled, token)
        state[:, WRITTEN] = written
        state[:, FINISH] = torch.where(active, why, state[:, FINISH])
        if reading:
            state[:, POSITION] += active
            state[:, LENGTH] += active
        if special.think_end:
            thought = self._thinking(state[:, THINK], sampled)
            state[:, THINK] = torch.where(going, thought, state[:, THINK])
        self.state.index_copy_(0, rows, state)
        written_now = torch.where(going, sampled, -1)
        told = (written_now, logprob, why, hit)
        return torch.stack([column.double() for column in told], dim=1)

    def _sample(
        self, logits: Tensor, rows: Tensor, state: Tensor, truncated: bool
    ) -> tuple[Tensor, Tensor]:
        draw = self.draw[rows]
        forced = None
        if self.special.think_end:
            due = (state[:, WRITTEN] >= state[:, THINK_LIMIT]) & (state[:, THINK] < self._ends)
            wanted = self._think_end[state[:, THINK].clamp_max(self._ends - 1)]
            forced = torch.where(due, wanted, -1)
        return sample_tokens(
            logits,
            state[:, SEED],
            state[:, WRITTEN],
            temperature=draw[:, 0],
            # plain numbers tell that nothing has to be sorted
            top_p=draw[:, 1] if truncated else 1.0,
            top_k=state[:, TOP_K] if truncated else 0,
            forced=forced,
            backend=self.backend,
        )

    @property
    def _ends(self) -> int:
        return len(self.special.think_end)

    def _thinking(self, seen: Tensor, token: Tensor) -> Tensor:
        """How many tokens of `</think>` stand at the end of what is written now.

        The tag's last token may merge with what follows (">" with a line break): after all but the
        last, any token ends the thinking.
        """
        ends = self._ends
        follows = token == self._think_end[seen.clamp_max(ends - 1)]
        begins = (token == self._think_end[0]).long()
        merged = (seen == ends - 1) & (ends > 1)
        other = torch.where(merged, ends, begins)
        return torch.where(seen == ends, ends, torch.where(follows, seen + 1, other))

    def _keep_last(self, rows: Tensor, hidden: Tensor, missed: Tensor) -> None:
        """A row that ends without a <gen_emb> gives the state of its own last input."""
        vectors = torch.nn.functional.normalize(hidden.float(), dim=-1)
        self.gather.vectors.index_copy_(0, torch.where(missed, rows, self.count), vectors)

    def _fill(self, table: Tensor, rows: Tensor, pages: list[list[int]]) -> None:
        width = table.shape[1]
        padded = [each + [SCRATCH] * (width - len(each)) for each in pages]
        table.index_copy_(0, rows, self._send(padded, torch.int32))

    def _send(self, values: list, dtype: torch.dtype = torch.int64) -> Tensor:
        return to_device(torch.tensor(values, dtype=dtype), self.device)

    def _table(self, rows: int, width: int) -> Tensor:
        return torch.full((rows, width), SCRATCH, dtype=torch.int32, device=self.device)
