"""The doors of harmonisation: Python, and as the last step of a restyling."""

import numpy as np
import pytest
import torch
from PIL import Image
from r2r_networks import small_networks

import regionstyle
from regionstyle.nodes.app.cli import harmony_commands
from regionstyle.nodes.app.edit import EditResult
from regionstyle.nodes.app.harmonize import HARMONIZERS, HarmonizeRequest, harmonize
from regionstyle.nodes.app.stylize import harmonized
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.harmonizer.base import enlarged_result
from regionstyle.nodes.harmonizer.r2r.files import load_r2r, save_r2r
from regionstyle.nodes.harmonizer.r2r.pipeline import R2RHarmonizer
from regionstyle.nodes.harmonizer.r2r.settings import R2RSettings


def smooth(h=60, w=80, seed=0):
    small = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (h, w), mode="bicubic", align_corners=True).clamp(0.05, 0.95)


def pasted():
    """A picture, a composite whose middle is darker, and the mask `[H,W]`."""
    truth = smooth()
    mask = torch.zeros(60, 80)
    mask[15:45, 20:60] = 1
    return truth, torch.where(mask > 0, truth * 0.7, truth), mask


def test_the_names_are_those_of_the_command_line():
    assert tuple(HARMONIZERS) == harmony_commands.METHODS


def test_python_takes_and_gives_every_kind(tmp_path):
    truth, composite, mask = pasted()
    array = (composite[0].permute(1, 2, 0) * 255).round().byte().numpy()
    shape = (mask * 255).byte().numpy()
    Image.fromarray(array).save(tmp_path / "c.png")
    Image.fromarray(shape).save(tmp_path / "m.png")
    of_path = regionstyle.harmonize(tmp_path / "c.png", tmp_path / "m.png")
    of_array = regionstyle.harmonize(array, shape)
    of_tensor = regionstyle.harmonize(composite.permute(0, 2, 3, 1), mask)
    assert isinstance(of_path.image, Image.Image)
    assert np.array_equal(np.asarray(of_path.image), of_array.image)
    assert np.array_equal(of_array.image[shape == 0], array[shape == 0])
    assert of_tensor.image.shape == (1, 60, 80, 3)
    expected = truth[0].permute(1, 2, 0)
    before = (composite[0].permute(1, 2, 0) - expected)[mask > 0].square().mean()
    assert (of_tensor.image[0] - expected)[mask > 0].square().mean() < 0.3 * before
    assert of_path.warning == ""


@pytest.mark.parametrize("method", [method for method in HARMONIZERS if method != "r2r"])
def test_every_method(method):
    _, composite, mask = pasted()
    made = regionstyle.harmonize(composite[0].permute(1, 2, 0), mask, method=method).image
    assert torch.equal(made[mask == 0], composite[0].permute(1, 2, 0)[mask == 0])
    assert not torch.equal(made[mask > 0], composite[0].permute(1, 2, 0)[mask > 0])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r2r")
    save_r2r(small_networks(), folder)
    return folder


def test_r2r_with_its_weights(weights):
    """Its settings and its seed arrive; the background stays."""
    _, composite, mask = pasted()
    image, short = composite[0].permute(1, 2, 0), {"steps": 1, "resolution": 64}

    def made(seed=0, settings=short, folder=weights):
        return regionstyle.harmonize(
            image, mask, method="r2r", weights=folder, r2r_settings=settings, seed=seed, device="cpu"
        ).image

    first = made()
    assert torch.equal(first[mask == 0], image[mask == 0])
    assert not torch.equal(first[mask > 0], image[mask > 0])
    assert torch.equal(made(folder=str(weights)), first)
    assert not torch.equal(made(seed=1), first)
    assert not torch.equal(made(settings=short | {"steps": 2}), first)
    expected = R2RHarmonizer(load_r2r(weights), LocalHost("cpu"), R2RSettings(steps=1, resolution=64))
    asked = expected.harmonize(composite, mask[None, None])
    assert torch.allclose(first[mask > 0], asked[0].permute(1, 2, 0)[mask > 0], atol=1e-5)


def test_r2r_says_how_far_it_enlarged(weights, caplog):
    """In the log and the result; not within the 1.5 times that the eye forgives, and not at the picture's own size."""
    _, composite, mask = pasted()
    large = torch.nn.functional.interpolate(composite, (120, 160))[0].permute(1, 2, 0)
    region = torch.nn.functional.interpolate(mask[None, None], (120, 160))[0, 0]

    def warning(region):
        short = {"steps": 1, "resolution": 64}
        return regionstyle.harmonize(
            large, region, method="r2r", weights=weights, r2r_settings=short, device="cpu"
        ).warning

    said = warning(region)
    assert said.startswith("harmonised at 64 x 64 pixels and enlarged 2.5 times")
    assert "Raise resolution" in said
    assert said in caplog.text
    assert "enlarged" not in warning(region * 0)
    networks = load_r2r(weights)
    for resolution in (128, 0):
        harmonizer = R2RHarmonizer(networks, LocalHost("cpu"), R2RSettings(resolution=resolution))
        assert enlarged_result(harmonizer, (120, 160)) == ""


def test_an_empty_mask_is_said(caplog):
    _, composite, mask = pasted()
    result = regionstyle.harmonize(composite[0].permute(1, 2, 0), mask * 0)
    assert torch.equal(result.image, composite[0].permute(1, 2, 0))
    assert "mask is empty" in result.warning
    assert "mask is empty" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "method: got 'magic'"),
        ({"seam": -1}, "seam: got -1"),
        ({"seam": "wide"}, "seam"),
        ({"seed": -1}, "seed"),
        ({"reference_mask": np.ones((4, 4))}, "reference_mask: got a mask, expected it with a reference"),
        ({"reference": np.ones((9, 9, 3)) * 0.5, "method": "poisson"}, "reference: got one with Poisson"),
        ({"mask": np.ones((60, 80))}, "covers all of picture 1"),
        ({"mask": np.ones((60, 80)), "method": "poisson"}, "covers all of picture 1"),
        ({"mask": np.full((60, 80), 0.4), "method": "poisson"}, "0 pixels inside"),
        ({"mask": np.ones((6, 8))}, "mask: got"),
        ({"composite": 3}, "image: got a int"),
        ({"device": "tpu"}, "device"),
        ({"method": "r2r"}, "weights: got none with r2r"),
        ({"method": "r2r", "weights": "/none/such"}, "does not exist"),
        ({"weights": "somewhere"}, "weights: got them with the method 'bundled'"),
        ({"r2r_settings": {"steps": 2}}, "settings of R2R: got them with the method 'bundled'"),
        ({"method": "r2r", "weights": "x", "r2r_settings": {"stairs": 2}}, "stairs"),
        ({"method": "r2r", "weights": "x", "r2r_settings": 2}, "r2r_settings"),
        ({"method": "r2r", "weights": 3}, "weights: got a int"),
    ],
)
def test_what_is_refused(change, message):
    _, composite, mask = pasted()
    given = {"composite": composite[0].permute(1, 2, 0), "mask": mask} | change
    with pytest.raises(RegionStyleError, match=message):
        regionstyle.harmonize(**given)


def test_cancelled():
    _, composite, mask = pasted()
    with pytest.raises(Cancelled):
        harmonize(composite, mask[None], HarmonizeRequest(), LocalHost("cpu", cancelled=lambda: True))


@pytest.mark.parametrize(("share", "said"), [(1.0, "not harmonised: mask: got a mask that covers all"), (0.0, "")])
def test_what_cannot_be_harmonised_stays_as_it_was_painted(share, said):
    _, composite, mask = pasted()
    both = EditResult(composite.repeat(2, 1, 1, 1), torch.stack([mask * 0 + share, mask]), notes=("before",))
    made = harmonized(both, LocalHost("cpu"))
    assert torch.equal(made.image[0], composite[0])
    assert not torch.equal(made.image[1], composite[0])
    assert made.notes[0] == "before"
    assert said in "\n".join(made.notes)
    assert len(made.notes) == 1 + bool(said)


def test_a_pil_pictures_transparency_counts():
    _, composite, mask = pasted()
    array = (composite[0].permute(1, 2, 0) * 255).round().byte().numpy()
    alpha = np.full((60, 80, 1), 255, np.uint8)
    alpha[:, 70:] = 0
    hidden = Image.fromarray(np.concatenate([array, alpha], -1))
    made = regionstyle.harmonize(hidden, mask.numpy(), method="reinhard").image
    alone = regionstyle.harmonize(Image.fromarray(array[:, :70]), mask.numpy()[:, :70], method="reinhard").image
    assert np.array_equal(np.asarray(made)[:, :70, :3], np.asarray(alone))


@pytest.mark.slow
def test_restyling_may_end_with_it():
    """The background stays; the restyled thing is another one than without."""
    from regionstyle.nodes.app.evaluation.scenes import as_image, demo_scene

    image = as_image(demo_scene(10))
    mask = torch.zeros(128, 128)
    mask[40:90, 40:100] = 1
    array = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    plain, fitted = (
        regionstyle.stylize(array, "make it mosaic", mask=mask.numpy(), steps=2, harmonize=harmonize)
        for harmonize in (False, True)
    )
    outside = fitted.mask == 0
    assert np.array_equal(fitted.image[outside], array[outside])
    assert not np.array_equal(fitted.image, plain.image)
    with pytest.raises(RegionStyleError, match="harmonize: got it with whole"):
        regionstyle.stylize(array, "make it mosaic", whole=True, harmonize=True)
