"""What is said around a pass of a network for those inside it: prompts and parts of a batch, regions, observers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .memory import BatchSlice

# While a cross-attention runs once per region, the share `[B,N]` of the running pass in the layer's output.
# Whoever observes attention (AttentionTap) weights what it sees by it.
attention_share: ContextVar[Tensor | None] = ContextVar("attention_share", default=None)

# Somebody observes attention: passes for regions then run over all image places, not only over their own.
whole_passes: ContextVar[bool] = ContextVar("whole_passes", default=False)

# An isolated prompt is being read: what runs hides words, and observers look away (they saw a pass over all words).
hiding_words: ContextVar[bool] = ContextVar("hiding_words", default=False)

# While a batch is predicted in parts because memory is short: the running part. Gates stay those of the whole batch.
part_of_batch: ContextVar[BatchSlice | None] = ContextVar("part_of_batch", default=None)

# Which prompts words count in, and the part of the batch that ran when this was said.
_positive_blocks: ContextVar[tuple[tuple[bool, ...], BatchSlice | None]] = ContextVar(
    "positive_blocks", default=((True,), None)
)


@contextmanager
def prompts_of_batch(positive: Sequence[bool]) -> Iterator[None]:
    """Inside, batches hold the images once per prompt; positive: whether that prompt is the one that words count in."""
    token = _positive_blocks.set((tuple(positive), part_of_batch.get()))
    try:
        yield
    finally:
        _positive_blocks.reset(token)


@contextmanager
def batch_part(part: BatchSlice) -> Iterator[None]:
    """Inside, networks run with these rows of a batch (once per prompt); a part that is the whole changes nothing."""
    token = part_of_batch.set(None if part.whole else part)
    try:
        yield
    finally:
        part_of_batch.reset(token)


@contextmanager
def words_hidden() -> Iterator[None]:
    """Inside, words are hidden from places that may not read them."""
    token = hiding_words.set(True)
    try:
        yield
    finally:
        hiding_words.reset(token)


def own_rows(value: Tensor) -> Tensor:
    """The rows of the running part, of a tensor with one entry per row of the batch; others as they are."""
    part = part_of_batch.get()
    return value if part is None or len(value) != part.total else value[part.rows]


def positive_rows(batch: int) -> Tensor:
    """Which rows of the running batch belong to a positive prompt, bool `[batch]` on the CPU."""
    (positive, said_in), part = _positive_blocks.get(), part_of_batch.get()
    blocks = torch.tensor(positive)
    if part is None or part is said_in:
        return blocks.repeat_interleave(batch // len(blocks))
    # The blocks are those of the whole batch, which was parted afterwards.
    return blocks.repeat_interleave(part.total // len(blocks))[part.rows]


def any_positive() -> bool:
    """Whether the running batch holds a positive prompt at all."""
    return any(_positive_blocks.get()[0])
