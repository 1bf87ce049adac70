"""Adapters, attention tap, predictor, region crop and a restyling on the device of a run, against the CPU.

REGIONSTYLE_DEVICE names it; without it the tests run on the CPU. Networks are the tiny world's, in float32.
"""

import os

import pytest
import torch

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.crop import RegionCrop
from regionstyle.nodes.router.restyle import restyle_region
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.tinyworld.bundled import load_bundled_expert, load_components, load_predictor
from regionstyle.nodes.tinyworld.world import scene

DEVICE = os.environ.get("REGIONSTYLE_DEVICE", "cpu")
STYLES = ("mosaic", "watercolor")
pytestmark = pytest.mark.slow
PROMPT = "a picture in mosaic style"


class Exact(LocalHost):
    """All networks in float32, so that two devices can be compared."""

    def dtype(self, part):
        return torch.float32


@pytest.fixture(autouse=True)
def full_precision():
    """No rounding to ten bits inside of float32 products and convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def halves(size):
    """Gates of two experts: left and right."""
    left = torch.zeros(1, size, size)
    left[..., : size // 2] = 1
    return Gates({STYLES[0]: RegionGate(left), STYLES[1]: RegionGate(1 - left)})


@pytest.fixture(scope="module")
def predictors():
    """The tiny world's predictor on the CPU and on the device."""
    return [load_predictor(Exact(device), [load_bundled_expert(s) for s in STYLES]) for device in ("cpu", DEVICE)]


def on_both(predictors, work):
    """What `work(predictor, device)` gives on the CPU and on the device, both brought back."""
    found = []
    for predictor, device in zip(predictors, ("cpu", DEVICE), strict=True):
        with predictor.loaded():
            results = work(predictor, device)
            assert all(result.device.type == device for result in results)
            found.append([result.detach().cpu() for result in results])
    return found


def same(found, close=1e-3):
    """Equal up to the rounding of a few dozen layers, and not all zero."""
    for wanted, got in zip(*found, strict=True):
        size = float(wanted.abs().max())
        assert size > 0
        torch.testing.assert_close(got, wanted, atol=close * size, rtol=0)


def test_regional_experts_on_device_in_value_and_gradient(predictors):
    def work(predictor, device):
        latent = numbers(1, 4, 16, 16).to(device).requires_grad_()
        text = predictor.encode_text([PROMPT])
        with predictor.gradients():
            result = predictor.predict(latent, 0.6, text, halves(128)).eps
            return result, *torch.autograd.grad(result.square().sum(), latent)

    same(on_both(predictors, work))


def test_gradients_of_experts_on_device():
    found = []
    for device in ("cpu", DEVICE):
        unet = load_components().unet.to(device)
        stack = ExpertStack(unet, [load_bundled_expert(STYLES[0])])
        stack.weights.to(device)
        parameters = [p.requires_grad_() for p in stack.parameters(STYLES[0])]
        region = torch.zeros(1, 128, 128, device=device)
        region[..., 30:90] = 1
        with stack, stack.using(Gates({STYLES[0]: RegionGate(region)})):
            states = numbers(1, 77, 128, seed=2).to(device)
            loss = unet(numbers(1, 4, 16, 16).to(device), 400, encoder_hidden_states=states).sample.square().mean()
        found.append([g.cpu() for g in torch.autograd.grad(loss, parameters)])
    wanted, got = (torch.cat([g.flatten() for g in each]) for each in found)
    assert float((wanted - got).norm() / wanted.norm()) < 1e-3


def test_detached_experts_on_device_leave_the_network_bit_for_bit():
    unet = load_components().unet.to(DEVICE)
    latent, states = numbers(1, 4, 16, 16).to(DEVICE), numbers(1, 77, 128, seed=2).to(DEVICE)
    stack = ExpertStack(unet, [load_bundled_expert(STYLES[0])])

    @torch.no_grad()
    def result():
        return unet(latent, 400, encoder_hidden_states=states).sample

    before = result()
    with stack, stack.using(Gates({STYLES[0]: 1.0})):
        inside = result()
    assert not torch.equal(inside, before)
    assert torch.equal(result(), before)


@pytest.mark.parametrize("quantity", ["logodds", "share"])
def test_attention_tap_on_device(predictors, quantity):
    def work(predictor, device):
        latent = numbers(2, 4, 16, 16).to(device).requires_grad_()
        text = predictor.encode_text(["an orange triangle", "a blue ring"])
        with predictor.gradients(), AttentionTap(predictor, [[2], [3]], valid=text.valid, quantity=quantity) as tap:
            predictor.predict(latent, 0.3, text)
            seen = tap.mean((16, 16))
            return seen, *torch.autograd.grad(seen.square().sum(), latent)

    same(on_both(predictors, work))


def test_predictor_on_device_encodes_and_decodes(predictors):
    picture = torch.from_numpy(scene(3).image.copy()).permute(2, 0, 1)[None]

    def work(predictor, device):
        latent = predictor.encode(picture.to(device))
        return latent, predictor.decode(latent)

    same(on_both(predictors, work))


def test_region_crop_on_device_pastes_back_exactly():
    picture, mask = torch.rand(1, 3, 301, 243).to(DEVICE), torch.zeros(301, 243, device=DEVICE)
    mask[90:170, 60:140] = 1
    crop = RegionCrop.around(mask, native=128)
    result = crop.paste(picture, 1 - crop.cut(picture), mask, feather=5)
    outside = (crop.composite_mask(mask, feather=5) == 0).expand_as(picture)
    assert result.device.type == DEVICE
    assert outside.any()
    assert torch.equal(result[outside], picture[outside])
    assert (result != picture)[..., mask == 1].float().mean() > 0.9


@pytest.mark.parametrize("host", [Exact, LocalHost], ids=["float32", "the host's dtypes"])
def test_restyling_on_device(host):
    picture = torch.from_numpy(scene(3).image.copy()).permute(2, 0, 1)[None]
    mask = torch.zeros(128, 128)
    mask[20:70, 20:70] = 1

    def gate(region, cut):
        return Gates({STYLES[0]: RegionGate(region)})

    made = []
    for one in (Exact("cpu"), host(DEVICE)):
        predictor = load_predictor(one, [load_bundled_expert(STYLES[0])])
        settings = RestyleSettings(strength=0.4, steps=4, cfg=1.0, seed=3)
        made.append(restyle_region(predictor, picture, mask, PROMPT, gate=gate, settings=settings))
    wanted, got = made
    outside = (got.mask.cpu() == 0).expand_as(picture)
    assert torch.equal(got.image.cpu()[outside], picture[outside])
    assert float((got.image.cpu() - picture).abs()[..., mask == 1].mean()) > 0.02
    assert float((got.image.cpu() - wanted.image).abs().mean()) < (2e-3 if host is Exact else 1e-2)
