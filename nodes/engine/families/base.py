"""The protocol of a model family: all that the pack knows of one kind of network, on both hosts, in one object.

To add a family, write one file with a subclass of `ModelFamily` (or of the half-filled ones in `unet.py` and
`joint_transformer.py`) and name it in `registry.py`. Every list of supported models, every refusal and every choice by
family is made from these objects.

The pack's own name for a layer is its path in diffusers ("path" below), whatever the host calls it ("module").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from .layers import LayerSlice, SlicesOf, class_names, refuse_fused
from .token_grid import Size
from .token_layout import TokenLayout

if TYPE_CHECKING:
    from ..predictor.base import Text
    from ..predictor.schedule import Schedule
    from .denoiser import Denoiser

DIFFUSERS, COMFY = "diffusers", "ComfyUI"
BOTH_HOSTS = (DIFFUSERS, COMFY)
# The versions of ComfyUI that the help pages speak of: the main one and the oldest supported.
COMFY_VERSIONS = ("0.33", "0.3.64")
# Ways to guide a sampler by attention masks.
GRADIENT, BIAS, COMPOSITION = "gradient", "bias", "composition"
# How far a family was tried, for the help pages: with trained weights, or with random ones in small networks.
TRAINED, RANDOM = "trained weights", "random weights"


@dataclass(frozen=True)
class JointBlocks:
    """A list of blocks, each with one attention `attn` over text and image tokens together.

    attribute: the list's name in the network; path: its name in diffusers. heads_first (diffusers only): whether the
    norms of queries and keys get `[B,heads,N,D]`, otherwise `[B,N,heads,D]`. text_first: whether the text tokens stand
    before the image tokens where the attention is computed.
    """

    attribute: str
    path: str
    heads_first: bool = False
    text_first: bool = True


@dataclass(frozen=True)
class FolderLayout:
    """A model of the family as a folder in diffusers' layout.

    part: the folder of its network; encoders: number of text encoders; table: whether the scheduler's folder holds
    its noise levels (rectified flow needs none); guided: whether a negative prompt is subtracted (a network distilled
    with guidance is told its scale instead).
    """

    part: str
    encoders: int
    table: bool = True
    guided: bool = True


class ModelFamily(ABC):
    """One family. Its objects hold no network; their methods are given one, of either host unless they say which.

    Names. name: of the class of models in sentences ("a model of the SDXL class"); versions: published models, as in
    tables; kind: of its networks, in the plural; diffusers_class, comfy_class: of its network on each host;
    comfy_models: ComfyUI's classes of the whole model (in `comfy.model_base`), needed where a model reads `Extras`;
    comfy_sizes: ComfyUI's configurations (in `comfy.supported_models`) trained at another size than 1024 -> pixels.

    Pictures. predicts: what its networks may give, of "eps", "v" and "flow"; native_size: side in pixels they were
    trained at, where a network does not say; latent_factor: pixels per latent pixel, along a side.

    Text. comfy_text: the sorted names of ComfyUI's text encoders -> those whose tokens lie along the token axis, one
    after the other (the others give a pooled vector, or share the positions).

    Files. folder: see `FolderLayout`; lora_layouts: how its LoRA files are written, of "kohya" and "diffusers", the
    first one being what ComfyUI's loader reads.

    Support. isolates: hosts on which prompts can be kept apart; references: those on which a network can be shown a
    reference picture beside its own; guides: ways in which attention can guide a sampler, of
    `GRADIENT` (which holds the activations of a whole backward pass), `BIAS` and `COMPOSITION`; tried: `TRAINED` or
    `RANDOM`.
    """

    name: ClassVar[str]
    versions: ClassVar[tuple[str, ...]]
    kind: ClassVar[str] = "transformers"
    diffusers_class: ClassVar[str]
    comfy_class: ClassVar[str | None] = None
    comfy_models: ClassVar[tuple[str, ...]] = ()
    comfy_sizes: ClassVar[Mapping[str, int]] = {}
    predicts: ClassVar[tuple[str, ...]]
    native_size: ClassVar[int] = 1024
    latent_factor: ClassVar[int] = 8
    comfy_text: ClassVar[Mapping[tuple[str, ...], tuple[str, ...]]] = {}
    folder: ClassVar[FolderLayout | None] = None
    lora_layouts: ClassVar[tuple[str, ...]] = ("diffusers",)
    isolates: ClassVar[tuple[str, ...]] = BOTH_HOSTS
    references: ClassVar[tuple[str, ...]] = ()
    guides: ClassVar[tuple[str, ...]] = (BIAS, COMPOSITION)
    tried: ClassVar[str] = RANDOM

    # --- which networks ----------------------------------------------------------------------------------------------

    @abstractmethod
    def accepts(self, network: nn.Module) -> bool:
        """Whether a network is of this family: look at its structure, refuse relatives that differ.

        At most one family may accept a network.
        """

    def is_diffusers(self, network: nn.Module) -> bool:
        """Whether a network is diffusers' class of this family."""
        return self.diffusers_class in class_names(network)

    def in_folder(self, config: Mapping[str, Any]) -> bool:
        """Whether the configuration of a saved diffusers network is one of this family."""
        return self.folder is not None and config.get("_class_name") == self.diffusers_class

    # --- layers ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def slices_in(self, network: nn.Module) -> SlicesOf:
        """The function (module name, module) -> diffusers' layers that it computes, for this network."""

    def layer_slices(self, network: nn.Module) -> dict[str, LayerSlice]:
        """Path -> where that layer is in this network. RegionStyleError for fused projections."""
        refuse_fused(network)
        slices_of = self.slices_in(network)
        modules = ((name, module) for name, module in network.named_modules() if name)
        return {part.path: part for name, module in modules for part in slices_of(name, module)}

    @abstractmethod
    def token_kind(self, path: str) -> str:
        """What the rows of a layer's input are, hence what a mask means there.

        "image": tokens or pixels of the picture; "text": text tokens of a joint attention; "joint": text tokens, then
        image tokens; "words": text read by a cross-attention, which is blended as a whole; "none": neither.
        """

    def token_blocks(self, network: nn.Module) -> list[nn.Module]:
        """Modules whose layers see the image tokens that came into the module; other counts inside are an error."""
        return []

    def comfy_blocks_of(self, network: nn.Module) -> list[nn.Module]:
        """Parts of ComfyUI's network that hold next to all of its activations, none inside another: what gradient
        checkpointing runs twice."""
        return [block for blocks in self.joint_blocks(network) for block in getattr(network, blocks.attribute)]

    @abstractmethod
    def token_layout(self, network: nn.Module, arguments: Mapping[str, Any]) -> TokenLayout:
        """The tokens of a pass; arguments: those of the network's forward, by name (`bound`)."""

    # --- attention over text -----------------------------------------------------------------------------------------

    def cross_attention_of(self, path: str) -> str | None:
        """Path of the cross-attention that a layer is or belongs to; None for others."""
        return None

    def cross_attentions(self, network: nn.Module) -> dict[str, str]:
        """Path -> module name of every cross-attention, in the network's order."""
        slices_of = self.slices_in(network)
        slices = (part for name, module in network.named_modules() for part in slices_of(name, module))
        return {part.path: part.module for part in slices if self.cross_attention_of(part.path) == part.path}

    def joint_blocks(self, network: nn.Module) -> tuple[JointBlocks, ...]:
        """Lists of blocks that attend over text and image together; none in families with cross-attention."""
        return ()

    def layout_layers(self, grids: Mapping[str, Size], latent: Size) -> list[str]:
        """Those of some text attentions (path -> grid of its image tokens) whose maps say best what goes where.

        latent: the latent's size. The losses of guidance look at these; all of them unless a family says otherwise.
        """
        return list(grids)

    def masked_attentions(self, network: nn.Module) -> list[str]:
        """Module names of joint attentions whose forward adds an `attention_mask`."""
        return []

    # --- noise prediction --------------------------------------------------------------------------------------------

    @abstractmethod
    def denoiser(self, network: Any, scheduler: Any) -> Denoiser:
        """How a diffusers network of this family is called.

        RegionStyleError for a variant or a scheduler that is not supported.
        """

    @abstractmethod
    def encode_text(self, encoders: Sequence[Any], tokenizers: Sequence[Any], texts: list[str]) -> Text:
        """Prompts through transformers' text encoders, as this family's diffusers pipeline encodes them."""

    def comfy_schedule(self, sampling: Any) -> tuple[Schedule, str] | None:
        """Noise levels and prediction of a ComfyUI sampling object; None for one that is not this family's."""
        return None

    def comfy_extras(self, model: Any) -> tuple[str, ...]:
        """Which `Extras` a ComfyUI model (in `comfy.model_base`) of this family reads."""
        return ()

    # --- LoRA files --------------------------------------------------------------------------------------------------

    @abstractmethod
    def layer_name(self, underscored: str) -> str | None:
        """A layer's name in a LoRA file, given with underscores, with dots; None for a layer of another family.

        The name may be diffusers' or the original code's.
        """

    def usual_name(self, name: str) -> str:
        """The name that `layer_name` knows, for names only some trainers write; others come back as they are."""
        return name

    @abstractmethod
    def file_slices(
        self, sizes: Mapping[str, tuple[int, int]], network: nn.Module | None
    ) -> dict[str, list[LayerSlice]]:
        """Layers of a file (name with dots -> inputs, outputs) -> diffusers' layers in each, none for unknown ones.

        network: what the file was made for, if that is known.
        """

    # --- sentences ---------------------------------------------------------------------------------------------------

    def network_classes(self) -> str:
        """The classes of its networks, as an error names them."""
        other = f", {COMFY} {self.comfy_class}" if self.comfy_class else ""
        return f"{DIFFUSERS} {self.diffusers_class}{other}"

    def supported_denoiser(self) -> str:
        """One sentence: what of this family the noise predictor takes on the diffusers host."""
        gives = " or ".join(self.predicts)
        return f"Supported: {self.diffusers_class} of {joined(self.versions)} that predicts {gives} from text alone."


def joined(names: Iterable[str], word: str = "and") -> str:
    """As in "a, b and c", with this word before the last one; ValueError for no names."""
    *before, last = names
    return f"{', '.join(before)} {word} {last}" if before else last
