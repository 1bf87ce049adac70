"""Editing without a mask in the tiny world: the denoiser is shown the picture, and reads what to make of it.

As FLUX.1 Kontext does with a sequence and InstructPix2Pix with channels (arXiv:2211.09800), the picture's latent stands
beside the noisy one: a second first convolution, whose output is added to the first one's (which is one convolution
over both, cut in two), and a LoRA. A third part says, place by place, how much of the prediction is wanted and how much
of the picture is kept: without it thousands of steps are spent on learning to copy. The denoiser's own weights stay as
they are. Where "make the red star mosaic" acts, the network decides; it is given no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.adapters.gates import Gates
from ..engine.adapters.stack import ExpertStack
from ..engine.adapters.weights import ExpertWeights
from ..engine.attention.tap import AttentionTap
from ..engine.errors import RegionStyleError, wrong_input
from ..engine.families.registry import family_of
from ..engine.host.context import pass_context
from ..engine.lora.init import init_lora
from ..engine.predictor.base import NoisePredictor
from ..engine.predictor.sampling import Predict, ddim, partial_times
from ..engine.predictor.schedule import Prediction, from_denoised
from ..engine.predictor.tokens import find_tokens
from .bundled import read, read_tensor
from .networks import LATENT_CHANNELS, UNET_CONFIG
from .settings import WordsEditSettings
from .shapes import SHAPES
from .styles import STYLES
from .world import COLORS, SIZE

NAME = "editing"
RANK = 32
LOOKED_AT = 0.5  # the noise level at which attention is shown


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


class KeptOrNew(nn.Module):
    """How much of the prediction is wanted at each place, from what the denoiser's last convolution reads.

    features `[B,64,h,w]` -> `[B,1,h,w]` in 0..1; a half everywhere before training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(UNET_CONFIG["block_out_channels"][0], 1, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features).sigmoid()  # type: ignore[no-any-return]


class EditingAdapter(nn.Module):
    """The second input, the LoRA and the choice of places of one denoiser; parameters, to be trained or moved."""

    def __init__(self, network: nn.Module, *, rank: int = RANK, seed: int = 0) -> None:
        super().__init__()
        self.source_in, self.acting = SourceInput(), KeptOrNew()
        self.lora = ExpertWeights(init_lora(network, NAME, "", rank=rank, layers="all", seed=seed))
        self._source: Tensor | None = None
        self._wanted: dict[int, Tensor] = {}  # of the last pass, by prompt: how much of its prediction is wanted
        self._order: list[int] = [0]  # which prompts the running pass holds, one block of rows each

    @contextmanager
    def attached(self, network: nn.Module) -> Iterator[EditingAdapter]:
        """Inside, the network is an editing network; without a picture (`showing`) every pass is an error."""
        places = family_of(network).layer_slices(network)  # each host calls its layers otherwise
        first, last = (network.get_submodule(places[name].module) for name in ("conv_in", "conv_out"))
        with ExpertStack(network, [self.lora]) as stack:
            stack.set(Gates({NAME: 1.0}))
            hooks = [
                network.register_forward_pre_hook(self._begin, with_kwargs=True),
                first.register_forward_hook(self._beside),
                last.register_forward_pre_hook(self._look),
            ]
            try:
                yield self
            finally:
                for hook in hooks:
                    hook.remove()
                self._wanted = {}  # it may hold the whole of a backward pass

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
        source, part = self._source, pass_context().batch_slice
        if part is not None:  # of the batch, which may hold its pictures once per prompt
            source = source[torch.arange(part.start, part.stop) % len(source)]
        rows, given = len(output), len(source)
        if rows % given or source.shape[-2:] != args[0].shape[-2:]:
            accepts = f"one or {rows} of {list(args[0].shape[-2:])}"
            raise wrong_input("source", f"{given} latents of {list(source.shape[-2:])}", accepts, "Encode the picture.")
        added: Tensor = self.source_in(source.to(output.dtype))
        return output + added.repeat(rows // given, 1, 1, 1)  # a batch may hold its pictures once per prompt

    def _begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """ComfyUI runs the prompts in an order of its own, in one pass or several, and says so; the first is 0."""
        self._order = list(kwargs.get("transformer_options", {}).get("cond_or_uncond", [0]))

    def _look(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        part = pass_context().batch_slice
        for prompt, wanted in zip(self._order, self.acting(args[0]).chunk(len(self._order)), strict=True):
            before = [self._wanted[prompt]] if part is not None and part.start else []
            self._wanted[prompt] = torch.cat([*before, wanted]) if before else wanted

    def where(self, count: int) -> Tensor:
        """How much of the last pass's prediction was wanted in each of so many pictures, `[count,1,h,w]`; of the first
        prompt, where an empty one ran beside it."""
        return self._wanted[0][:count]

    def blended(self, clean: Tensor) -> Tensor:
        """The clean latents `[B,4,h,w]` that the last pass predicted, with the picture where nothing is to change."""
        assert self._source is not None
        return torch.lerp(self._source.to(clean), clean, self.where(len(clean)).to(clean))

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


def bundled_adapter(network: nn.Module) -> EditingAdapter:
    """The adapter that ships. RegionStyleError when the installation lacks it."""
    return load_adapter(network, read(NAME))


@dataclass(frozen=True, eq=False)
class WordsEdit:
    """images `[B,3,H,W]` in 0..1; attention `[B,P,h,w]`, in 0..1: where each instruction's words looked in the picture
    it was given; where `[B,P,h,w]`: how much of it each instruction wanted new, mean over the steps."""

    images: Tensor
    attention: Tensor
    where: Tensor


def instruction_for(phrase: str, style: str) -> str:
    """What the adapter was taught to read."""
    return f"make the {phrase} {style}"


def check_instruction(phrase: str, style: str) -> None:
    """RegionStyleError for a thing that is no shape of the tiny world, with or without a colour, and another style."""
    words = phrase.lower().split()
    if not (words and words[-1] in SHAPES and (len(words) == 1 or (len(words) == 2 and words[0] in COLORS))):
        accepts = f"a shape ({', '.join(SHAPES)}), with or without a colour before it ({', '.join(COLORS)})"
        remedy = "Name the thing so; Restyle by Sentence knows places and numbers."
        raise wrong_input("instruction", f"the thing {phrase!r}", accepts, remedy)
    if style not in STYLES:
        raise wrong_input("instruction", f"the style {style!r}", f"one of: {', '.join(STYLES)}", "Use one of these.")


def check_fits(predictor: NoisePredictor, images: Tensor) -> None:
    """RegionStyleError unless the network is the tiny world's, and images `[B,3,H,W]` have the size of its pictures.

    Call it inside `loaded()`: a network that waits elsewhere may hold no weights.
    """
    if not is_tiny(predictor):
        got, accepts = type(predictor.network).__name__ + " of another model", "what Load Tiny World gives"
        remedy = "For other models use Restyle by Sentence, or a model of its own for edits, such as FLUX.1 Kontext."
        raise wrong_input("model", got, accepts, remedy)
    check_size(images)


def check_size(images: Tensor) -> None:
    """RegionStyleError unless images `[B,3,H,W]` have the size of the tiny world's pictures."""
    if tuple(images.shape[-2:]) != (SIZE, SIZE):
        got = f"{images.shape[-1]} x {images.shape[-2]} pixels"
        remedy = "Resize or crop the picture first; Restyle by Sentence takes any size."
        raise wrong_input("image", got, f"{SIZE} x {SIZE}, since edits by words were taught at that size", remedy)


def is_tiny(predictor: NoisePredictor) -> bool:
    """Whether a predictor runs the tiny world's own denoiser, on either host."""
    try:
        places = family_of(predictor.network).layer_slices(predictor.network)
    except RegionStyleError:
        return False
    if "conv_in" not in places:
        return False
    own: Any = predictor.network.get_submodule(places["conv_in"].module).weight
    stored = read_tensor("unet", "conv_in.weight").float()
    there = own.detach().float().cpu()
    return there.shape == stored.shape and torch.allclose(there, stored, rtol=2e-2, atol=2e-3)


def edit_by_words(
    predictor: NoisePredictor,
    adapter: EditingAdapter,
    images: Tensor,
    instructions: Sequence[tuple[str, str]],
    settings: WordsEditSettings | None = None,
) -> WordsEdit:
    """Images `[B,3,128,128]` in 0..1 as instructions want them, each a thing and a style; no mask takes part.

    All of the picture is drawn anew, from noise, with the picture beside it; so what stays is as near to it as the
    autoencoder gives it. One instruction after the other, the next on what the last one made, without decoding between.
    Progress with a preview is reported and cancel looked for at every step. RegionStyleError for another model's
    network, another size, and no instruction.
    """
    settings = settings or WordsEditSettings()
    if not instructions:
        raise wrong_input("instruction", "nothing", "a thing and a style", "Type for example 'make the star mosaic'.")
    progress = predictor.host.progress(settings.steps * len(instructions), "editing")
    with torch.no_grad(), predictor.loaded(), predictor.host.on_device(adapter):
        check_fits(predictor, images)
        latents = predictor.encode(images)
        random = torch.Generator().manual_seed(settings.seed)
        looked, wanted = [], []
        for number, asked in enumerate(instructions):
            places: list[Tensor] = []

            def shown(step: int, made: Prediction, done: int = number * settings.steps) -> None:
                places.append(adapter.where(len(images)))  # noqa: B023 (called in this turn of the loop only)
                progress.update(done + step + 1, predictor.decode(made.denoised[:1])[0])

            noise = torch.randn(latents.shape, generator=random).to(latents)
            with adapter.attached(predictor.network), adapter.showing(latents):
                looked.append(_looks(predictor, latents, noise, asked))
                latents = drawn(predictor, adapter, noise, [instruction_for(*asked)], settings, shown)
            wanted.append(torch.stack(places).mean(0))
        maps = [torch.cat(each, 1).float().cpu() for each in (looked, wanted)]
        return WordsEdit(predictor.decode(latents), *maps)


def drawn(
    predictor: NoisePredictor,
    adapter: EditingAdapter,
    noise: Tensor,
    instructions: Sequence[str],
    settings: WordsEditSettings,
    on_step: Callable[[int, Prediction], None],
) -> Tensor:
    """The latents `[B,4,16,16]` that one instruction, or one each, makes of those that are shown."""
    text = predictor.encode_text(list(instructions))
    empty = None if settings.cfg == 1 else predictor.encode_text([""])

    def kept(share: float, x: Tensor, t: float, predict: Predict) -> Prediction:
        clean = adapter.blended(predict(x).denoised)
        return from_denoised(x, clean, *predictor.alpha_sigma(t))

    times = partial_times(1.0, settings.steps)
    return ddim(predictor, noise, times, text, negative=empty, cfg=settings.cfg, guide=kept, on_step=on_step)


def _looks(predictor: NoisePredictor, latents: Tensor, noise: Tensor, asked: tuple[str, str]) -> Tensor:
    """Where the instruction's words look in half-noised latents, in 0..1, `[B,1,h,w]`: mean over thing and style."""
    text = predictor.encode_text([instruction_for(*asked)])
    tokens = [token for words in asked for token in find_tokens(text, words)]
    with AttentionTap(predictor, [tokens], valid=text.valid[0]) as tap:
        predictor.predict(predictor.add_noise(latents, noise, LOOKED_AT), LOOKED_AT, text)
    return tap.mean((latents.shape[-2], latents.shape[-1])).sigmoid()
