"""Files with the weights of the pack's own small networks: safetensors whose header says what they hold.

A file of another kind, a damaged one, and one whose tensors do not fit the network end in one RegionStyleError that
names the file and the first tensors at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import wrong_input
from .safe_write import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class WeightFile:
    """name: what errors call it; kind: the header's key; version: its value, the layout; remedy: what to do."""

    name: str
    kind: str
    version: str
    remedy: str

    def write(self, path: Path, network: nn.Module, header: Mapping[str, str]) -> None:
        """Write a network's tensors as they are; half a file is never left behind."""
        from safetensors.torch import save_file

        if path.suffix != ".safetensors":
            raise wrong_input(self.name, path.name, "a name ending in .safetensors", "Rename it.")
        state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in network.state_dict().items()}
        with replacing(path, self.name) as part:
            save_file(state, part, metadata={"format": "pt", self.kind: self.version, **header})

    def read(self, path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Header and tensors, on the CPU. RegionStyleError for a file that is missing, damaged or of another kind."""
        import torch
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise wrong_input(self.name, f"{path}, which does not exist", "a .safetensors file", self.remedy)
        try:
            # Weights made in ComfyUI's inference mode could not be trained further.
            with torch.inference_mode(False), safe_open(path, framework="pt") as file:
                header = dict(file.metadata() or {})
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            got = f"{path.name} ({type(error).__name__})"
            raise wrong_input(self.name, got, "a safetensors file", self.remedy) from error
        if header.get(self.kind) != self.version:
            what = f"of layout {header[self.kind]!r}" if self.kind in header else f"which is no {self.name}"
            raise wrong_input(self.name, f"{path.name}, {what}", f"a {self.name} of layout {self.version}", self.remedy)
        bad = [key for key, tensor in state.items() if not bool(tensor.float().isfinite().all())]
        if bad:
            got = f"{path.name} with NaN or infinity in {', '.join(bad[:3])} ({len(bad)} such)"
            raise wrong_input(self.name, got, "finite numbers", "Its training has failed; use another file.")
        return header, state

    def fill(self, network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
        """Put tensors into a network. RegionStyleError for missing, unknown and misshapen ones, with their counts."""
        wanted = network.state_dict()
        missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
        misfits = [
            f"{key} {list(state[key].shape)} instead of {list(wanted[key].shape)}"
            for key in wanted.keys() & state.keys()
            if state[key].shape != wanted[key].shape
        ]
        faults = {"without": missing, "with unknown": unknown, "with": sorted(misfits)}
        shown = [f"{how} {', '.join(keys[:3])} ({len(keys)} such)" for how, keys in faults.items() if keys]
        if shown:
            accepts = f"the {len(wanted)} tensors that its header speaks of"
            raise wrong_input(self.name, f"{path.name} {'; '.join(shown)}", accepts, self.remedy)
        network.load_state_dict(dict(state))
