"""Generators: their networks, their files, tiles without seams, and masks that keep the background bit for bit."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.sms.generator.apply import apply_generator, tiles
from regionstyle.nodes.sms.generator.files import StyleGenerator, bundled_generators, load_generator, save_generator
from regionstyle.nodes.sms.generator.network import ARCHITECTURES, Architecture, new_generator


def painting(name="tiny", seed=0):
    """A generator whose every layer acts; fresh ones have residual blocks that add nothing."""
    made = new_generator(name, seed).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    for block in made.blocks:
        block.second.weight.copy_(torch.randn(block.second.weight.shape, generator=random) * 0.03)
    made.tail.weight.mul_(3)
    return StyleGenerator(made, "mosaic")


@pytest.fixture(scope="module")
def generator():
    return painting()


def picture(height, width, count=1, seed=1):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_sizes_are_those_of_the_paper_and_of_two_megabytes():
    sizes = {name: sum(p.numel() for p in new_generator(name).parameters()) for name in ARCHITECTURES}
    assert 43 < sizes["residual"] * 4 / 2**20 < 44
    assert sizes["tiny"] * 2 < 2_000_000 - 10_000  # the header of the file


def test_the_same_seed_gives_the_same_network_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (new_generator("tiny", seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_pixel_further_away_than_the_radius_counts(generator):
    radius, stride = generator.network.architecture.radius, generator.network.architecture.stride
    side = 2 * (radius // stride + 2) * stride
    image = picture(side, side).requires_grad_()
    reach = 0
    for at in range(side // 2, side // 2 + stride):
        (gradient,) = torch.autograd.grad(generator.network(image)[0, :, at, at].sum(), image)
        found = gradient[0].abs().sum((0, 1)).nonzero().flatten()
        reach = max(reach, at - int(found.min()), int(found.max()) - at)
    assert reach == radius


@pytest.mark.parametrize("size", [(150, 203), (3, 5), (64, 300)], ids=str)
def test_tiles_equal_the_whole_picture(generator, size):
    """Odd sizes, and smaller than the stride; the whole is one call of the network."""
    image = picture(*size)
    padded = torch.nn.functional.pad(image, (0, -size[1] % 4, 0, -size[0] % 4), mode="replicate")
    whole = generator.network(padded)[..., : size[0], : size[1]].clamp(0, 1)
    assert float((whole - image).abs().mean()) > 0.02, "it paints nothing, so nothing is compared"
    for side in (24, 64, 512):
        made, mask = apply_generator(generator, image, LocalHost("cpu"), tile=side)
        torch.testing.assert_close(made, whole, rtol=0, atol=1e-5)
        assert bool((mask == 1).all())


@pytest.mark.slow
@torch.no_grad()
def test_a_large_photograph_has_no_seams():
    """The shipped weights at the usual tile: twelve tiles against one call of the network on the whole."""
    from skimage.data import coffee

    photo = torch.from_numpy(coffee()).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.interpolate(photo, (1150, 1603), mode="bicubic").clamp(0, 1)
    made = load_generator(next(iter(bundled_generators().values())))
    padded = torch.nn.functional.pad(image, (0, -1603 % 4, 0, -1150 % 4), mode="replicate")
    whole = made.network(padded)[..., :1150, :1603].clamp(0, 1)
    assert len(tiles(1152, 1604, 512, made.network.architecture)) == 12
    torch.testing.assert_close(apply_generator(made, image, LocalHost("cpu"))[0], whole, rtol=0, atol=1e-5)


def test_a_smaller_margin_would_leave_seams(generator, monkeypatch):
    """The test above can fail: with half the margin it does."""
    image = picture(64, 300)
    whole = generator.network(image).clamp(0, 1)
    half = Architecture.radius.fget(generator.network.architecture) // 2
    monkeypatch.setattr(Architecture, "radius", property(lambda self: half))
    made, _ = apply_generator(generator, image, LocalHost("cpu"), tile=64)
    assert float((made - whole).abs().max()) > 1e-5


@pytest.mark.parametrize("side", [4, 30, 64, 1000])
def test_cores_cover_a_picture_once(side):
    covered = torch.zeros(100, 60)
    for tile in tiles(100, 60, side, ARCHITECTURES["tiny"]):
        top, left, bottom, right = tile.core
        covered[top:bottom, left:right] += 1
        assert all(value % 4 == 0 for value in (*tile.core, *tile.window))
    assert bool((covered == 1).all())


def test_outside_the_mask_the_picture_stays_and_empty_tiles_cost_nothing(generator):
    image, mask, seen = picture(96, 160, 2), torch.zeros(2, 96, 160), []
    mask[0, 10:20, 12:30] = 1
    mask[1, 60:80, 100:130] = 0.5
    host = LocalHost("cpu", on_progress=lambda label, done, total, preview: seen.append((done, total)))
    made, blended = apply_generator(generator, image, host, mask=mask, feather=3, tile=32)
    outside = (blended == 0)[:, None].expand_as(image)
    assert torch.equal(made[outside], image[outside])
    assert bool((made != image)[:, :, 10:20, 12:30][0].any())
    assert bool((made != image)[1, :, 60:80, 100:130].any())
    assert float(blended[0, 15, 31]) > 0
    assert seen[-1] == (6, 6)  # of 30 tiles


def test_a_batch_is_its_pictures(generator):
    images = picture(40, 52, 3)
    made, _ = apply_generator(generator, images, LocalHost("cpu"))
    for at in range(3):
        torch.testing.assert_close(
            made[at : at + 1], apply_generator(generator, images[at : at + 1], LocalHost("cpu"))[0]
        )
    assert not made.requires_grad


def test_cancel_and_short_memory(generator):
    image, sides = picture(64, 128), []

    def stop(label, done, total, preview):
        sides.append(preview)
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        apply_generator(generator, image, LocalHost("cpu", on_progress=stop), tile=64)
    assert sides[-1].shape == (3, 64, 128)

    class Small(type(generator.network)):
        def forward(self, images):
            if images.shape[-1] > 200:
                raise torch.OutOfMemoryError("no room")
            return super().forward(images)

    small = Small("tiny")
    small.load_state_dict(generator.network.state_dict())
    made, _ = apply_generator(StyleGenerator(small, ""), picture(64, 400), LocalHost("cpu"), tile=512)
    torch.testing.assert_close(
        made, apply_generator(generator, picture(64, 400), LocalHost("cpu"))[0], rtol=0, atol=1e-5
    )


def test_wrong_pictures_masks_and_tiles_are_named(generator):
    with pytest.raises(RegionStyleError, match=r"images: got \[1, 4, 8, 8\]"):
        apply_generator(generator, torch.zeros(1, 4, 8, 8), LocalHost("cpu"))
    with pytest.raises(RegionStyleError, match=r"mask.*expected \[1,8,8\]"):
        apply_generator(generator, torch.zeros(1, 3, 8, 8), LocalHost("cpu"), mask=torch.ones(2, 8, 8))
    with pytest.raises(RegionStyleError, match="tile"):
        apply_generator(generator, torch.zeros(1, 3, 8, 8), LocalHost("cpu"), tile=0)


def test_a_file_gives_back_the_network_in_half_precision(generator, tmp_path):
    save_generator(generator, tmp_path / "deep" / "made.safetensors", licence="MIT")
    path = tmp_path / "deep" / "made.safetensors"
    assert path.stat().st_size < 2_000_000
    made = load_generator(path)
    assert (made.style, made.network.name) == ("mosaic", "tiny")
    for name, value in generator.network.state_dict().items():
        torch.testing.assert_close(made.network.state_dict()[name], value.half().float(), rtol=0, atol=0)
    assert [p.name for p in path.parent.iterdir()] == ["made.safetensors"]


def damaged(path, header, **changes):
    """The file again, with some tensors replaced (None: left out) and another header."""
    state = {**load_file(path), **changes}
    save_file({k: v for k, v in state.items() if v is not None}, path, metadata=header)


HEADER = {"regionstyle_generator": "1", "architecture": "tiny", "style": "mosaic"}


@pytest.mark.parametrize(
    ("header", "changes", "said"),
    [
        (HEADER | {"architecture": "huge"}, {}, "architecture: got 'huge', expected one of residual, tiny"),
        (HEADER | {"regionstyle_generator": "7"}, {}, "layout '7', expected a generator of layout 1"),
        ({"format": "pt"}, {}, "which is no generator"),
        (HEADER, {"head.bias": None}, "without head.bias"),
        (HEADER, {"more": torch.zeros(2)}, "with unknown more"),
        (HEADER, {"head.bias": torch.zeros(7)}, r"head.bias \[7\] instead of \[24\]"),
    ],
    ids=["architecture", "version", "other", "missing", "unknown", "shape"],
)
def test_files_that_do_not_fit_are_refused(generator, tmp_path, header, changes, said):
    path = tmp_path / "made.safetensors"
    save_generator(generator, path)
    damaged(path, header, **changes)
    with pytest.raises(RegionStyleError, match=f"made.safetensors.*{said}|{said}"):
        load_generator(path)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(RegionStyleError, match=r"text.safetensors.*expected a safetensors file"):
        load_generator(tmp_path / "text.safetensors")
    with pytest.raises(RegionStyleError, match="no such file"):
        load_generator(tmp_path / "absent.safetensors")
    with pytest.raises(RegionStyleError, match="ending in .safetensors"):
        save_generator(painting(), tmp_path / "made.pt")


def test_shipped_generators_load_and_paint():
    bundled = bundled_generators()
    image = picture(32, 40)
    for style, path in bundled.items():
        made = load_generator(path)
        assert made.style == style
        assert path.stat().st_size <= 2_000_000
        painted, _ = apply_generator(made, image, LocalHost("cpu"))
        assert math.isfinite(float(painted.sum()))
        assert float((painted - image).abs().mean()) > 0.02
