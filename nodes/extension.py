"""What ComfyUI gets from this pack: the model folders and node classes of all slices."""

from importlib import import_module

from comfy_api.latest import ComfyExtension, io

from .copies import warn_of_copies

# Each slice's `nodes.py` defines `NODES`, a list of node classes in menu order, and may define `register()`: what the
# slice adds to ComfyUI's model folders.
SLICES = ("tinyworld", "router", "sms", "sampler", "local_clip", "app", "grounding", "harmonizer", "metrics")


class RegionStyleExtension(ComfyExtension):
    """The extension: adds model folders and what ships with the pack to ComfyUI's, and its nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        warn_of_copies()
        modules = [import_module(f".{name}.nodes", __package__) for name in SLICES]
        for module in modules:  # not in on_load, which 0.3.64 does not call
            getattr(module, "register", list)()
        return [node for module in modules for node in module.NODES]
