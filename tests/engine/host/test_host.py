"""The host without a program around it, and what of ComfyUI's host can be tested without ComfyUI."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost, counted
from regionstyle.nodes.engine.host.comfy import load_whole, to_pil
from regionstyle.nodes.engine.host.gradients import ordinary, ordinary_weights, without_dynamic_memory


def test_progress_reports_then_cancels():
    """The preview of the step that is cancelled is still shown."""
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report), cancelled=lambda: len(seen) == 2)
    progress, preview = host.progress(5, "restyle"), torch.zeros(3, 4, 4)
    progress.update(1)
    with pytest.raises(Cancelled):
        progress.update(2, preview)
    assert seen == [("restyle", 1, 5, None), ("restyle", 2, 5, preview)]


def test_no_callbacks_needed():
    host = LocalHost("cpu")
    host.progress(1).update(1)
    host.check()


def test_load_moves_modules():
    module = torch.nn.Linear(1, 1)
    LocalHost("meta").load(module)
    assert module.weight.device.type == "meta"


def test_dtypes():
    assert [LocalHost("cpu").dtype(part) for part in ("unet", "vae", "text")] == [torch.float32] * 3
    assert [LocalHost("cuda").dtype(part) for part in ("unet", "vae")] == [torch.float16, torch.float32]
    with pytest.raises(RegionStyleError, match="'clip'"):
        LocalHost("cpu").dtype("clip")


def test_find(tmp_path):
    (tmp_path / "oil.safetensors").touch()
    host = LocalHost("cpu", folders={"loras": tmp_path})
    assert host.find("loras", "oil.safetensors") == tmp_path / "oil.safetensors"
    assert host.find("checkpoints", str(tmp_path / "oil.safetensors")) == Path(tmp_path / "oil.safetensors")


def test_missing_file_names_file_and_folder(tmp_path):
    (tmp_path / "oil.safetensors").touch()
    with pytest.raises(RegionStyleError) as error:
        LocalHost("cpu", folders={"loras": tmp_path}).find("loras", "sketch.safetensors")
    for words in ("'sketch.safetensors'", str(tmp_path), "oil.safetensors", "Put"):
        assert words in str(error.value)
    with pytest.raises(RegionStyleError, match="no folder is set for vae"):
        LocalHost("cpu").find("vae", "x.safetensors")


def loader_made():
    """A network as ComfyUI's loaders make it: of inference tensors."""
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()


def test_ordinary_weights_share_memory_and_are_put_back():
    network = loader_made()
    before = [*network.parameters(), *network.buffers()]
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="[Ii]nference tensor"):
        network(x)
    with ordinary_weights(network):
        inside = [*network.parameters(), *network.buffers()]
        assert [t.data_ptr() for t in inside] == [t.data_ptr() for t in before]
        assert not any(t.is_inference() or t.requires_grad for t in inside)
        assert torch.autograd.grad(network(x).square().sum(), x)[0].abs().sum() > 0
    assert all(a is b for a, b in zip(before, [*network.parameters(), *network.buffers()], strict=True))


def test_ordinary_weights_leave_trained_and_moved_weights_alone():
    network, trained, moved = loader_made(), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3, 3))
    network[0].bias = trained

    def fail():
        with ordinary_weights(network):
            network[0].weight = moved
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert network[0].bias is trained
    assert network[0].weight is moved
    assert network[1].weight.is_inference()


def test_quantised_weights_are_refused():
    class Packed(torch.Tensor):
        pass

    network = loader_made()
    with torch.inference_mode():
        network.register_buffer("packed", torch.zeros(3).as_subclass(Packed))
    with pytest.raises(RegionStyleError, match="Packed"), ordinary_weights(network):
        pass
    assert network[0].weight.is_inference()


def test_what_a_partial_load_left_behind_follows():
    """As under --novram: some layers are on the device ("meta" stands for it), buffers and others are not."""
    network = nn.Sequential(nn.Linear(3, 3, device="meta"), nn.BatchNorm1d(3))
    patcher = SimpleNamespace(model=network, load_device="meta", model_size=lambda: 99)
    load_whole(patcher)
    assert {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]} == {"meta"}
    assert network.model_loaded_weight_memory == 99
    network.model_loaded_weight_memory = 5
    load_whole(patcher)
    assert network.model_loaded_weight_memory == 5, "nothing was left behind"


def test_ordinary_copies_inference_tensors_only():
    kept = torch.ones(2)
    with torch.inference_mode():
        made = torch.ones(2)
    result = ordinary({"a": [made, kept], "b": (made, "text")})
    assert not result["a"][0].is_inference()
    assert result["a"][1] is kept
    assert torch.equal(result["b"][0], made)
    assert result["b"][1] == "text"


def test_dynamic_memory():
    def refuse():
        raise RuntimeError("cached_patcher_init is not initialized")

    old, whole = SimpleNamespace(), SimpleNamespace()
    assert without_dynamic_memory(old) is old
    assert without_dynamic_memory(SimpleNamespace(is_dynamic=lambda: False, get_non_dynamic_delegate=refuse))
    streamed = SimpleNamespace(is_dynamic=lambda: True, get_non_dynamic_delegate=lambda: whole)
    assert without_dynamic_memory(streamed) is whole
    with pytest.raises(RegionStyleError, match="--disable-dynamic-vram"):
        without_dynamic_memory(SimpleNamespace(is_dynamic=lambda: True, get_non_dynamic_delegate=refuse))


def test_preview_picture():
    image = torch.tensor([0.0, 0.5, 2.0]).reshape(3, 1, 1).expand(3, 2, 5)
    picture = to_pil(image)
    assert picture.size == (5, 2)
    assert picture.getpixel((4, 1)) == (0, 128, 255)


class Recorder(torch.nn.Linear):
    """Notes where it is moved to; a machine without GPU has no second device that gives tensors back."""

    def __init__(self):
        super().__init__(2, 2)
        self.moves = []

    def to(self, device):
        self.moves.append(torch.device(device))
        return self


def test_a_lent_module_is_moved_for_the_block_only():
    module, other = Recorder(), torch.nn.Linear(2, 2)
    parameter, value = other.weight, other.weight.detach().clone()
    with LocalHost("cuda").on_device(module):
        assert module.moves == [torch.device("cuda")]
    host = LocalHost("cpu")
    with host.on_device(other), host.on_device(other):
        other.weight.data.add_(1)  # trained inside: the same parameter, and what it learnt stays
    assert other.weight is parameter
    assert torch.equal(other.weight, value + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_lent_module_leaves_the_gpu_again():
    module, host = torch.nn.Linear(2, 2), LocalHost("cuda")
    with host.on_device(module), host.on_device(module):
        assert module.weight.is_cuda
    assert not module.weight.is_cuda


def test_a_counted_loop_is_reported_and_can_be_cancelled():
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report[:3]), cancelled=lambda: len(seen) == 2)
    done = []
    with pytest.raises(Cancelled):
        done.extend(counted("abcd", host, "letters"))
    assert seen == [("letters", 1, 4), ("letters", 2, 4)]
    assert list(counted("abcd", None, "letters")) == list("abcd")
