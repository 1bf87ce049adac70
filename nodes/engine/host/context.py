"""What holds around a pass of a network, for those inside it: the prompts and slice of its batch, and who observes.

Adapters, attention taps and predictors lie on the way of one pass and never call each other. What one of them must
know of another stands here, in one `PassContext`; `pass_context()` gives the running one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .memory import BatchSlice


@dataclass(frozen=True, eq=False)
class PassContext:
    """What holds during a pass of a network.

    batch_slice: the rows that run, while a batch is predicted in slices because memory is short (None: all). Gates
    stay those of the whole batch.
    positive_prompts: a batch holds its images once per prompt; for each, whether it is the positive one, in which the
    tokens of `RegionGate` are counted. prompts_slice: the slice of the batch that ran when this was said.
    attention_share: while a cross-attention runs once per region, the share `[B,N]` of the running pass in the layer's
    output, in 0..1 (None: it runs once). Whoever observes attention weights what it sees by it.
    observed: somebody observes attention, so passes for regions run over all image tokens, not only over their own.
    tokens_hidden: the pass sees only some tokens of the prompt, and observers look away (they saw one over all).
    """

    batch_slice: BatchSlice | None = None
    positive_prompts: tuple[bool, ...] = (True,)
    prompts_slice: BatchSlice | None = None
    attention_share: Tensor | None = None
    observed: bool = False
    tokens_hidden: bool = False

    @property
    def any_positive(self) -> bool:
        """Whether the running batch holds a positive prompt at all."""
        return any(self.positive_prompts)

    def own_rows(self, value: Tensor) -> Tensor:
        """The rows of the running slice, of a tensor with one entry per row of the batch; others as they are."""
        batch = self.batch_slice
        return value if batch is None or len(value) != batch.total else value[batch.rows]

    def positive_rows(self, batch: int) -> Tensor:
        """Which rows of a running batch of this size belong to a positive prompt, bool `[batch]` on the CPU."""
        prompts, running = torch.tensor(self.positive_prompts), self.batch_slice
        if running is None or running is self.prompts_slice:
            return prompts.repeat_interleave(batch // len(prompts))
        # The prompts are those of the whole batch, which was sliced afterwards.
        return prompts.repeat_interleave(running.total // len(prompts))[running.rows]


_CONTEXT: ContextVar[PassContext] = ContextVar("regionstyle_pass_context", default=PassContext())  # noqa: B039


def pass_context() -> PassContext:
    """What holds for the pass that runs now; the defaults outside of any."""
    return _CONTEXT.get()


@contextmanager
def _changed(**fields: Any) -> Iterator[None]:
    """Other values of some fields inside; on leaving these come back, whatever has become of the other fields."""
    before = _CONTEXT.get()
    _CONTEXT.set(replace(before, **fields))
    try:
        yield
    finally:
        _CONTEXT.set(replace(_CONTEXT.get(), **{name: getattr(before, name) for name in fields}))


def prompts_of_batch(positive: Sequence[bool]) -> AbstractContextManager[None]:
    """Inside, batches hold the images once per prompt; positive: for each prompt, whether it is the positive one."""
    return _changed(positive_prompts=tuple(positive), prompts_slice=pass_context().batch_slice)


def running_slice(batch: BatchSlice) -> AbstractContextManager[None]:
    """Inside, networks run with these rows of a batch (once per prompt); a slice that is the whole changes nothing."""
    return _changed(batch_slice=None if batch.whole else batch)


def sharing_attention(share: Tensor) -> AbstractContextManager[None]:
    """Inside, a cross-attention runs for one region with this share `[B,N]` of its output; blocks nest by product."""
    outer = pass_context().attention_share
    return _changed(attention_share=share if outer is None else outer * share)


def observing_attention() -> AbstractContextManager[None]:
    """Inside, passes for regions run over all image tokens."""
    return _changed(observed=True)


def hiding_tokens() -> AbstractContextManager[None]:
    """Inside, some tokens of the prompt are hidden from those who may not see them."""
    return _changed(tokens_hidden=True)
