"""ComfyUI-RegionStyle: text says which thing gets which style; the rest of the picture stays as it is.

Imported as `regionstyle` when installed, and by ComfyUI under the name of whatever folder it sits in. Nothing is
imported here until it is asked for: ComfyUI starts without waiting for this pack, and pytest, which imports this
file as part of the test tree, finds no relative import to fail on.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

# Help pages and scripts that ComfyUI serves to the browser.
WEB_DIRECTORY = "./nodes/web"

__all__ = [
    "RegionStyleError",
    "WEB_DIRECTORY",
    "__version__",
    "comfy_entrypoint",
    "find",
    "harmonize",
    "kernels",
    "nodes",
    "stylize",
]

# The Python API: public names and the modules they come from when they are asked for.
_API = {
    "stylize": ".nodes.app.api",
    "find": ".nodes.app.api",
    "harmonize": ".nodes.app.api",
    "RegionStyleError": ".nodes.engine.errors",
}


async def comfy_entrypoint() -> Any:
    """The extension object that ComfyUI asks for when it loads the folder."""
    from .nodes.extension import RegionStyleExtension

    return RegionStyleExtension()


def _version() -> str:
    """The version in pyproject.toml: read there in a checkout, from the installed package's metadata otherwise."""
    project = Path(__file__).with_name("pyproject.toml")
    if project.is_file():
        line = re.search(r'^version = "([^"]+)"', project.read_text(encoding="utf-8"), re.MULTILINE)
        if line:
            return line[1]
    from importlib.metadata import version

    return version("regionstyle")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in ("kernels", "nodes"):
        return import_module(f".{name}", __name__)
    if name in _API:
        return getattr(import_module(_API[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
