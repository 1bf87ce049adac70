"""A ComfyUI that can run workflows: a running server, or the one installed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..workflow.workflow import Prompt
from .results import Result


class Comfy(Protocol):
    """A ComfyUI that can run workflows: `ServerComfy` or `ProcessComfy`."""

    place: str

    def definitions(self, names: set[str]) -> dict[str, Any]: ...
    def upload(self, file: Path) -> str: ...
    def execute(self, prompt: Prompt, on_event: Any, *, partial: bool = False) -> Mapping[str, Any]: ...
    def results(self) -> list[Result]: ...
    def texts(self) -> list[tuple[str, str]]: ...
    def unfinished(self) -> list[Path]: ...
    def keep(self) -> Path | None: ...
    def close(self) -> None: ...


def connect(server: str | None) -> Comfy:
    """The running server named, or else the ComfyUI installed here in a process of its own."""
    if server:
        from .http_server import ServerComfy

        return ServerComfy(server)
    from .install import find_comfy
    from .process import ProcessComfy

    return ProcessComfy(find_comfy())
