"""What the scripts that go through all model families in ComfyUI share."""

from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent
MODELS = (SUPPORT / "family_models.py").read_text() + (SUPPORT / "comfy_models.py").read_text()
NEW = ["sd", "v", "sdxl", "sd3", "sd35", "flux", "schnell"]
OLD = ["sd", "v"]
GPU_ROUNDING = 1e-4  # between two runs of the same network, and of its matrix products
IN_DIFFUSERS = ["sdxl", "sd3", "sd35", "flux", "schnell"]

IN_PROMPT = """
def in_prompt(work):
    # Run a function as ComfyUI runs a node: in a prompt, by its executor.
    import uuid
    from types import SimpleNamespace
    import execution
    import nodes

    box = []

    class Probe:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "run", True, "probe"
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})

        def run(self):
            assert torch.is_inference_mode_enabled()
            box.append(work())
            return {}

    nodes.NODE_CLASS_MAPPINGS["RegionStyleProbe"] = Probe
    stub = SimpleNamespace(client_id=None, last_node_id=None, sockets_metadata={}, send_sync=lambda *a, **k: None)
    options = {}
    if hasattr(execution.CacheType, "RAM_PRESSURE"):
        options = {"cache_type": execution.CacheType.CLASSIC, "cache_args": {"lru": 0, "ram": 0, "ram_inactive": 0}}
    executor = execution.PromptExecutor(stub, **options)
    executor.execute({"1": {"class_type": "RegionStyleProbe", "inputs": {}}}, str(uuid.uuid4()), {}, ["1"])
    assert executor.success, executor.status_messages[-1]
    return box[0]
"""


def cases(new=NEW, old=OLD, gpu=()):
    """(version, families of that version, family)."""
    versions = (("run_in_comfy", new), ("run_in_old_comfy", old), ("run_in_comfy_on_gpu", gpu))
    return [pytest.param(v, f, one, marks=pytest.mark.comfy, id=f"{v}-{one}") for v, f in versions for one in f]


def each_family_once(request):
    """run(version, script, families): what the script says, run once for all tests."""
    made = {}

    def once(version, script, families):
        key = version, script
        if key not in made:
            given = f"FAMILIES = {families!r}\n"
            made[key] = request.getfixturevalue(version)(MODELS + given + script)
        return made[key]

    return once
