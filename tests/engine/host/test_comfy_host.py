"""The ComfyUI host: progress, devices, files and foreign networks, inside ComfyUI's interpreter.

Each script starts with `comfy_models.py` and ends in one line of JSON: numbers and messages that the tests judge.
"""

from pathlib import Path

import pytest

from comfy_script import each_once

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()
VERSIONS = ["run_in_comfy", "run_in_old_comfy"]

HOST = """
import comfy.model_management as management
import comfy.utils
import folder_paths
from pathlib import Path

sent = []
comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **kwargs: sent.append((value, total, preview)))
host = ComfyHost()
out = {"device": str(host.device), "dtypes": [str(host.dtype(part)) for part in ("unet", "vae", "text")],
       "part": message(host.dtype, "clip")}

progress = host.progress(10, "restyle")
picture = torch.zeros(3, 20, 30)
picture[0] = 1
progress.update(1, picture)
kind, image, size = sent[-1][2]
out["preview"] = [sent[-1][:2], kind, list(image.size), list(image.getpixel((3, 4))), size]
management.interrupt_current_processing(True)
out["interrupt"] = message(progress.update, 2)
management.interrupt_current_processing(True)
out["check"] = message(host.check)
out["afterwards"] = message(host.check)

folder = Path(folder_paths.get_folder_paths("loras")[0])
out["find"] = [message(host.find, "loras", "no such.safetensors"), str(folder), message(host.find, "hats", "x")]

class Foreign(torch.nn.Module):
    # Like diffusers models: attributes without a setter.
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    device = property(lambda self: self.layer.weight.device)

network = Foreign()
host.load(network)
ComfyHost().load(network)
loaded = [entry.model for entry in management.current_loaded_models if hasattr(entry.model.model, "network")]
out["loaded"] = [len(loaded), loaded[0].model.network is network, loaded[0] is host.patcher(network)]
out["size"] = loaded[0].model_size() == 12 * 4
print(json.dumps(out))
"""


@pytest.fixture(scope="module", params=VERSIONS)
def run(request):
    """`run(script)`: its result, in the new and the old ComfyUI."""
    return each_once(request.getfixturevalue(request.param), MODELS)


def test_progress_preview_and_interrupt(run):
    found = run(HOST)
    assert found["preview"] == [[1, 10], "JPEG", [30, 20], [255, 0, 0], 512]
    assert found["interrupt"].startswith("InterruptProcessingException")
    assert found["check"].startswith("InterruptProcessingException")
    assert found["afterwards"] == "no error"


def test_devices_and_dtypes(run):
    found = run(HOST)
    assert found["device"] == "cpu"
    assert found["dtypes"][0] == "torch.float32"
    assert "'clip'" in found["part"]


def test_missing_file(run):
    absent, folder, unknown = run(HOST)["find"]
    assert "'no such.safetensors'" in absent
    assert folder in absent
    assert "'hats'" in unknown


def test_foreign_networks_are_counted_once(run):
    found = run(HOST)
    assert found["loaded"] == [1, True, True]
    assert found["size"]
