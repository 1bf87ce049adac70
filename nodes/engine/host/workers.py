"""Several processes that train one network, each on pictures of its own (data parallel), through Accelerate.

Every process begins with the same weights, draws other pictures, timesteps and noise, and takes the same step on the
mean of all gradients, so that the weights stay the same everywhere. Process 0 shows, saves and writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..errors import RegionStyleError


class Workers:
    """One process among `count`; alone unless Accelerate is given."""

    def __init__(self, accelerator: Any = None) -> None:
        """accelerator: an `accelerate.Accelerator`, or None."""
        self._accelerator = accelerator
        self.rank = 0 if accelerator is None else int(accelerator.process_index)
        self.count = 1 if accelerator is None else int(accelerator.num_processes)

    @property
    def first(self) -> bool:
        """Whether this process shows, saves and writes."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """The device Accelerate gives this process; None: not said."""
        return None if self._accelerator is None else str(self._accelerator.device)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean over all processes in place of every gradient; parameters without one must agree on that."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = self._accelerator.reduce(parameter.grad, reduction="mean")

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.count == 1:
            return value
        import torch

        own = torch.tensor(value, device=self.device)
        return float(self._accelerator.reduce(own, reduction="mean"))


ALONE = Workers()


def accelerated() -> Workers:
    """This process as `accelerate launch` started it. RegionStyleError where the package is not installed."""
    try:
        from accelerate import Accelerator
    except ImportError:
        raise RegionStyleError(
            "--accelerate: got no package 'accelerate', expected it beside this one. Install it with pip install "
            "accelerate, or train without --accelerate."
        ) from None
    return Workers(Accelerator())
