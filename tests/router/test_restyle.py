"""Restyling a region with the shipped tiny world."""

from dataclasses import replace

import pytest
import torch

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.router.restyle import gate_region, restyle_region
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.tinyworld.bundled import expert_files, load_bundled_expert, load_predictor
from regionstyle.nodes.tinyworld.world import scene

STYLE = "mosaic"


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu"), [load_bundled_expert(STYLE)])


def picture(seed: int, **options) -> torch.Tensor:
    return torch.from_numpy(scene(seed, **options).image.copy()).permute(2, 0, 1)[None]


def gate(region, cut):
    return Gates({STYLE: RegionGate(region)})


FEW = RestyleSettings(strength=0.2, steps=2, cfg=1.0)


@pytest.mark.parametrize("size", [(128, 128), (101, 243), (64, 50), (400, 300)])
@pytest.mark.parametrize("feather", [0, 5, -3])
def test_outside_the_mask_every_pixel_is_equal(predictor, size, feather):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(size)
    mask[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    settings = replace(FEW, steps=1, feather=feather)
    result = restyle_region(predictor, image, mask, f"a picture in {STYLE} style", gate=gate, settings=settings)
    outside = (result.mask == 0).expand_as(image)
    assert torch.equal(result.image[outside], image[outside])
    assert (result.image != image)[..., mask == 1].float().mean() > 0.9
    if feather <= 0:
        assert torch.equal(result.image[..., mask == 0], image[..., mask == 0])


def test_same_seed_same_picture(predictor):
    image, mask = picture(3), torch.zeros(128, 128)
    mask[20:70, 20:70] = 1
    prompt = f"a picture in {STYLE} style"
    made = [restyle_region(predictor, image, mask, prompt, gate=gate, settings=replace(FEW, seed=s)).image
            for s in (4, 5, 4)]  # fmt: skip
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


def test_the_expert_matters_and_leaves_no_trace(predictor):
    image, mask = picture(3), torch.ones(128, 128)
    plain = restyle_region(predictor, image, mask, "a picture", gate=lambda r, c: Gates({}), settings=FEW).image
    styled = restyle_region(predictor, image, mask, "a picture", gate=gate, settings=FEW).image
    after = restyle_region(predictor, image, mask, "a picture", gate=lambda r, c: Gates({}), settings=FEW).image
    bare = restyle_region(load_predictor(LocalHost("cpu")), image, mask, "a picture", settings=FEW).image
    assert torch.equal(plain, after)
    assert torch.equal(plain, bare)
    assert float((plain - styled).abs().mean()) > 0.01


def test_an_empty_mask_is_refused(predictor):
    with pytest.raises(RegionStyleError, match="mask"):
        restyle_region(predictor, picture(0), torch.zeros(128, 128), "a picture", gate=gate)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_cancel_at_every_step(stop_after):
    previews = []
    host = LocalHost("cpu", on_progress=lambda label, done, total, preview: previews.append(preview),
                     cancelled=lambda: len(previews) >= stop_after)  # fmt: skip
    with pytest.raises(Cancelled):
        restyle_region(
            load_predictor(host), picture(0), torch.ones(128, 128), "a picture", settings=replace(FEW, steps=4)
        )
    assert len(previews) == stop_after
    assert previews[-1].shape == (3, 128, 128)


def test_the_gate_grows_by_one_latent_cell():
    mask = torch.zeros(32, 32)
    mask[16, 16] = 1
    grown = gate_region(mask, 8)
    assert grown.shape == (1, 32, 32)
    assert float(grown[0, 16, 16]) == 1
    assert float(grown[0, 16, 23]) > 0
    assert float(grown[0, 16, 26]) == 0


def test_every_shipped_expert_loads():
    assert len(expert_files()) >= 4
    for style in expert_files():
        expert = load_bundled_expert(style)
        assert expert.style == style
        assert len(expert.layers) > 50
    with pytest.raises(RegionStyleError, match="mosaic"):
        load_bundled_expert("cubism")
