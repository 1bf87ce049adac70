"""`GET /probe/memory`: what the server's process holds, for tests and benchmarks of memory."""

import ctypes
import gc
import resource
import sys
from collections import Counter

import torch
from aiohttp import web
from server import PromptServer

PACK = "ComfyUI-RegionStyle"


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def trim() -> None:
    """Give back what the C library keeps for later; only glibc has that."""
    trimmed = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trimmed is not None:
        trimmed(0)


def held() -> dict:
    """Numbers of living objects after a collection: tensors and their bytes, networks, patchers, and what is ours."""
    gc.collect()
    counts, storages = Counter(), {}
    for item in gc.get_objects():
        kind = type(item)
        if issubclass(kind, torch.Tensor):
            counts["tensors"] += 1
            if item.layout == torch.strided and item.device.type != "meta":
                storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif issubclass(kind, torch.nn.Module):
            counts["networks"] += 1
        if "ModelPatcher" in kind.__name__:
            counts["patchers"] += 1
        if PACK in str(kind.__module__):
            counts["ours"] += 1
            counts[f"our {kind.__qualname__}"] += 1
    return {**counts, "bytes of tensors": sum(storages.values()), "modules": len(sys.modules)}


@PromptServer.instance.routes.get("/probe/memory")
async def memory(request: web.Request) -> web.Response:
    """resident: bytes as they are; trimmed: after a collection, with free pages given back (with ?trim=1 only)."""
    before, counts = resident(), held()
    after = resident()
    if request.query.get("trim"):
        trim()
    return web.json_response({"resident": before, "collected": after, "trimmed": resident(), "held": counts})
