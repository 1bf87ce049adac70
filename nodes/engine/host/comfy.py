"""ComfyUI as the host: its devices, memory management, progress, cancel, model folders, and gradients inside nodes.

ComfyUI's modules are imported inside functions: the pack also runs without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import wrong_input
from .base import PARTS, Progress, missing_file
from .gradients import (
    as_current,
    mutation_allowed,
    networks_of,
    ordinary_weights,
    training_flag,
    without_dynamic_memory,
)

PREVIEW_SIZE = 512
_PATCHER = "_regionstyle_patcher"


class ComfyHost:
    """One per run of a node; keeps nothing. Loading, progress and cancel go through ComfyUI's own functions."""

    def __init__(self) -> None:
        """The device is the one ComfyUI computes on."""
        import comfy.model_management as management

        self.device: torch.device = management.get_torch_device()

    def dtype(self, part: str) -> torch.dtype:
        """What ComfyUI would choose for such a network here."""
        import comfy.model_management as management

        choices = {
            "unet": lambda: management.unet_dtype(device=self.device),
            "vae": lambda: management.vae_dtype(self.device, [torch.bfloat16, torch.float32]),
            "text": lambda: management.text_encoder_dtype(self.device),
        }
        if part not in choices:
            raise wrong_input("part", repr(part), f"one of {', '.join(PARTS)}", "Name the network's role.")
        return choices[part]()

    def load(self, *modules: Any) -> None:
        """Load networks through ComfyUI, which frees room for them and may unload them later: call before every use.

        modules: any nn.Module, or ModelPatchers (MODEL, `clip.patcher`, `vae.patcher`). ComfyUI streams only layers of
        its own kind, so a module is loaded whole.
        """
        import comfy.model_management as management

        foreign = [module for module in modules if isinstance(module, nn.Module)]
        patchers = [self.patcher(module) for module in modules]
        management.load_models_gpu(patchers, force_full_load=len(foreign) == len(modules))
        for module in foreign:
            load_whole(self.patcher(module))

    @contextmanager
    def on_device(self, module: nn.Module) -> Iterator[None]:
        """The module loaded; ComfyUI unloads it by itself when something else needs the room."""
        self.load(module)
        yield

    def patcher(self, module: Any) -> Any:
        """The ModelPatcher of a module, made once: the module keeps it, so that ComfyUI counts it once."""
        if not isinstance(module, nn.Module):
            return module
        if _PATCHER not in module.__dict__:
            module.__dict__[_PATCHER] = new_patcher(module, self.device, streamed=False)
        return module.__dict__[_PATCHER]

    def progress(self, total: int, label: str = "") -> Progress:
        """ComfyUI's progress bar of the running node; it has no place for a label."""
        return _ComfyProgress(total)

    def check(self) -> None:
        """Raise ComfyUI's interrupt exception when the user has cancelled."""
        import comfy.model_management as management

        management.throw_exception_if_processing_interrupted()

    def empty_cache(self) -> None:
        """As ComfyUI does between two models; what it has loaded stays."""
        import comfy.model_management as management

        management.soft_empty_cache()

    def find(self, kind: str, name: str) -> Path:
        """A file in ComfyUI's folders of a kind, extra_model_paths.yaml included."""
        import folder_paths

        if kind not in folder_paths.folder_names_and_paths:
            raise wrong_input("kind", repr(kind), "a kind of model folder ComfyUI knows", "Name one, such as loras.")
        path = folder_paths.get_full_path(kind, name)
        if path is None:
            raise missing_file(
                kind, name, [Path(folder) for folder in folder_paths.get_folder_paths(kind)], paths=False
            )
        return Path(path)

    @contextmanager
    def gradients(self, *patchers: Any) -> Iterator[list[Any]]:
        """A block in which networks of ComfyUI may be differentiated; gives the patchers to use in it.

        Nodes run in inference mode, and loaders make inference tensors there, which autograd refuses. Here the mode
        is off, every parameter is replaced by an ordinary tensor over the same memory (no copy), ComfyUI is told that
        it is training (its custom rotary kernels have no backward), and layers that write in place are guarded.
        Weights stay frozen: only what requires grad beforehand is differentiated. Clone tensors that were made
        outside (`ordinary`). Blocks may be nested. Everything is restored on leaving. A model under dynamic VRAM is
        replaced by a fully loaded one; RegionStyleError where ComfyUI cannot make that.
        """
        import comfy.model_management as management

        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            whole = [without_dynamic_memory(patcher) for patcher in patchers]
            extra = [model for patcher in whole for model in patcher.get_nested_additional_models()]
            management.load_models_gpu([*whole, *extra], force_full_load=True)
            for patcher in whole:
                stack.enter_context(as_current(patcher))
                for module in networks_of(patcher):
                    stack.enter_context(ordinary_weights(module))
            stack.enter_context(training_flag(management))
            stack.enter_context(mutation_allowed())
            yield whole


class _ComfyProgress:
    def __init__(self, total: int) -> None:
        import comfy.utils

        self._bar = comfy.utils.ProgressBar(total)

    def update(self, done: int, preview: Tensor | None = None) -> None:
        """Preview `[3,H,W]` in 0..1. The interrupt is checked here, as ComfyUI skips bar updates in quick loops."""
        import comfy.model_management as management

        shown = None if preview is None else ("JPEG", to_pil(preview), PREVIEW_SIZE)
        self._bar.update_absolute(done, preview=shown)
        management.throw_exception_if_processing_interrupted()


class _Container(nn.Module):
    """Holds a foreign network: ModelPatcher writes attributes that some classes (diffusers) do not allow."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def new_patcher(module: nn.Module, device: torch.device, *, streamed: bool = True) -> Any:
    """A network that ComfyUI did not load, as a ModelPatcher.

    streamed: of the kind ComfyUI uses at this moment, which under dynamic VRAM moves parameters but no buffers.
    """
    import comfy.model_management as management
    import comfy.model_patcher

    whole = comfy.model_patcher.ModelPatcher
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", whole) if streamed else whole
    return kind(_Container(module), load_device=device, offload_device=management.unet_offload_device())


def load_whole(patcher: Any) -> None:
    """Bring what a partial load left behind (under --novram always something) to the device, and count it."""
    model, device = patcher.model, torch.device(patcher.load_device)
    if any(tensor.device.type != device.type for tensor in [*model.parameters(), *model.buffers()]):
        model.to(device)
        model.model_loaded_weight_memory = patcher.model_size()


def to_pil(image: Tensor) -> Any:
    """An image `[3,H,W]` in 0..1 as a picture of 8 bits."""
    from PIL import Image

    pixels = (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
