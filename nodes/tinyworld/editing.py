"""Editing without a mask in the tiny world: the denoiser is shown the picture, and reads what to make of it.

As FLUX.1 Kontext does with a sequence and InstructPix2Pix with channels (arXiv:2211.09800), the picture's latent stands
beside the noisy one: a second first convolution, whose output is added to the first one's (which is one convolution
over both, cut in two), and a LoRA. The denoiser's own weights stay as they are. Where "make the red star mosaic" acts,
the network decides; there is no mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.adapters.gates import Gates
from ..engine.adapters.stack import ExpertStack
from ..engine.adapters.weights import ExpertWeights
from ..engine.errors import wrong_input
from ..engine.host.context import pass_context
from ..engine.lora.init import init_lora
from ..engine.predictor.base import NoisePredictor
from ..engine.predictor.sampling import ddim, partial_times
from .networks import LATENT_CHANNELS, UNET_CONFIG

NAME = "editing"
RANK = 32


class SourceInput(nn.Module):
    """What is added to the first convolution's output for the picture: zero before training.

    latents `[B,4,h,w]` -> `[B,64,h,w]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(LATENT_CHANNELS, UNET_CONFIG["block_out_channels"][0], 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, latents: Tensor) -> Tensor:
        return self.conv(latents)  # type: ignore[no-any-return]


class EditingAdapter(nn.Module):
    """The second input and the LoRA of one denoiser; both are parameters, to be trained or moved."""

    def __init__(self, network: nn.Module, *, rank: int = RANK, seed: int = 0) -> None:
        super().__init__()
        self.source_in = SourceInput()
        self.lora = ExpertWeights(init_lora(network, NAME, "", rank=rank, layers="all", seed=seed))
        self._source: Tensor | None = None

    @contextmanager
    def attached(self, network: nn.Module) -> Iterator[EditingAdapter]:
        """Inside, the network is an editing network; without a picture (`showing`) every pass is an error."""
        convolution: Any = network.get_submodule("conv_in")
        with ExpertStack(network, [self.lora]) as stack:
            stack.set(Gates({NAME: 1.0}))
            handle = convolution.register_forward_hook(self._beside)
            try:
                yield self
            finally:
                handle.remove()

    @contextmanager
    def showing(self, latents: Tensor) -> Iterator[None]:
        """Inside, the picture of these latents `[B,4,h,w]` is shown: one for all rows, or as many as rows run."""
        before, self._source = self._source, latents
        try:
            yield
        finally:
            self._source = before

    def _beside(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self._source is None:
            raise wrong_input("source", "no picture", "one to edit", "Run the network inside showing(latents).")
        source = pass_context().own_rows(self._source)
        rows, given = len(output), len(source)
        if rows % given or source.shape[-2:] != args[0].shape[-2:]:
            accepts = f"one or {rows} of {list(args[0].shape[-2:])}"
            raise wrong_input("source", f"{given} latents of {list(source.shape[-2:])}", accepts, "Encode the picture.")
        added: Tensor = self.source_in(source.to(output.dtype))
        return output + added.repeat(rows // given, 1, 1, 1)  # a batch may hold its pictures once per prompt

    def tensors(self) -> dict[str, Tensor]:
        """All that is trained, as a file holds it."""
        return {key: value.detach() for key, value in self.state_dict().items()}


def load_adapter(network: nn.Module, tensors: Mapping[str, Tensor]) -> EditingAdapter:
    """An adapter from what `tensors()` gave. RegionStyleError for another network's."""
    downs = [value for key, value in tensors.items() if key.endswith(".down")]
    adapter = EditingAdapter(network, rank=len(downs[0]) if downs else 1)
    expected = {key: value.shape for key, value in adapter.state_dict().items()}
    if {key: value.shape for key, value in tensors.items()} != expected:
        got = f"{len(tensors)} tensors of another network"
        raise wrong_input("editing adapter", got, f"the {len(expected)} of this one", "Use the file of this model.")
    adapter.load_state_dict({key: value.float() for key, value in tensors.items()})
    return adapter.eval().requires_grad_(False)


def read_adapter(network: nn.Module, path: Path) -> EditingAdapter:
    """An adapter from a .safetensors file."""
    from safetensors.torch import load_file

    if not path.is_file():
        remedy = "Train one: regionstyle train tinyworld editing."
        raise wrong_input("editing adapter", f"no file {path}", "a .safetensors file", remedy)
    return load_adapter(network, load_file(path))


def edit_by_words(
    predictor: NoisePredictor,
    adapter: EditingAdapter,
    images: Tensor,
    instruction: str,
    *,
    steps: int = 12,
    seed: int = 0,
    cfg: float = 1.0,
) -> Tensor:
    """Images `[B,3,H,W]` in 0..1 as an instruction wants them, such as "make the red star mosaic"; no mask takes part.

    All of the picture is drawn anew, from noise, with the picture beside it; so what stays is as near to it as the
    autoencoder gives it. cfg: guidance by the empty instruction; 1 is off. Progress is reported and cancel looked for
    at every step.
    """
    progress = predictor.host.progress(steps, "editing")
    with torch.no_grad(), predictor.loaded(), adapter.attached(predictor.network):
        source = predictor.encode(images)
        text, empty = predictor.encode_text([instruction]), predictor.encode_text([""])
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed)).to(source)
        with adapter.showing(source):
            edited = ddim(
                predictor,
                noise,
                partial_times(1.0, steps),
                text,
                negative=None if cfg == 1 else empty,
                cfg=cfg,
                on_step=lambda index, prediction: progress.update(index + 1),
            )
        return predictor.decode(edited)
