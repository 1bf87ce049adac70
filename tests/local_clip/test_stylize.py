from dataclasses import replace

import pytest
import torch
from local_clip_networks import small_networks

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.regions import Regions, missing_region, region_of
from regionstyle.nodes.local_clip.presets import IMPROVED, PAPER, PRESETS, REFERENCE
from regionstyle.nodes.local_clip.settings import LocalClipSettings
from regionstyle.nodes.local_clip.stylize import LocalClip, stylize_local

SIZE = (40, 56)
QUICK = LocalClipSettings(iterations=3, patches=4, seed=2)


def region(x0, y0, x1, y1, style="mosaic", image=0, phrase="thing"):
    mask = torch.zeros(SIZE)
    mask[y0:y1, x0:x1] = 1
    return region_of(phrase, mask, style=style, image=image)


def regions(*items, batch=1):
    return Regions(tuple(items), *SIZE, batch)


def pictures(count=1):
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def styled(images, found, settings=QUICK, host=None, **options):
    return stylize_local(images, found, LocalClip(small_networks(), host or LocalHost("cpu")), settings, **options)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("optimise", ["network", "pixels"])
@pytest.mark.parametrize("order", ["in turn", "together"])
def test_the_background_is_equal_bit_for_bit_and_the_regions_change(preset, optimise, order):
    images = pictures()
    found = regions(region(4, 4, 20, 20), region(30, 10, 50, 34, "neon"))
    result = styled(images, found, replace(QUICK, preset=preset, optimise=optimise, order=order, feather=2))
    outside = (result.masks == 0)[:, None].expand_as(images)
    assert torch.equal(result.images[outside], images[outside])
    for one in found:
        assert not torch.equal(result.images[:, :, one.mask > 0.5], images[:, :, one.mask > 0.5])
    assert result.masks[0, 0, 0] == 0
    assert result.masks[found.union() == 1].min() == 1
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert len(result.history.total) == 3 * (2 if order == "in turn" else 1)
    assert result.notice.endswith("judged by small CLIP, small features")


def test_regions_in_turn_are_as_many_calls():
    images, first, second = pictures(), region(4, 4, 24, 28), region(16, 10, 50, 34, "neon")
    both = styled(images, regions(first, second))
    one = styled(images, regions(first))
    two = styled(one.images, regions(second))
    assert torch.equal(both.images, two.images)
    assert torch.equal(both.masks, torch.maximum(one.masks, two.masks))


def test_the_loss_falls():
    for optimise, rate in (("network", 5e-3), ("pixels", None)):
        settings = replace(QUICK, optimise=optimise, iterations=12, patches=12, rate=rate)
        history = styled(pictures(), regions(region(4, 4, 36, 36)), settings).history
        assert sum(history.total[-3:]) < 0.97 * sum(history.total[:3]), optimise


def test_together_the_later_region_owns_what_two_share():
    images = pictures()
    under, over = region(4, 4, 40, 36), region(4, 4, 40, 36, "neon")
    settings = replace(QUICK, order="together")
    assert torch.equal(
        styled(images, regions(under, over), settings).images, styled(images, regions(over), settings).images
    )


def test_the_seed_repeats():
    first, again, other = (
        styled(pictures(), regions(region(4, 4, 30, 30)), replace(QUICK, seed=seed)).images for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_not_there_is_left_out():
    images = pictures()
    alone = styled(images, regions(region(4, 4, 30, 30), missing_region("cat", SIZE, style="neon")))
    assert torch.equal(alone.images, styled(images, regions(region(4, 4, 30, 30))).images)
    nothing = styled(images, regions(missing_region("cat", SIZE, style="neon")))
    assert torch.equal(nothing.images, images)
    assert not nothing.masks.any()
    assert torch.equal(styled(images, regions()).images, images)


def test_a_region_may_be_the_whole_picture():
    result = styled(pictures(), regions(region(0, 0, 56, 40)))
    assert result.masks.min() == 1


@pytest.mark.parametrize("style", ["", "  ", "a Photo"])
def test_words_that_are_no_style_are_refused(style):
    with pytest.raises(RegionStyleError, match="style"):
        styled(pictures(), regions(region(4, 4, 30, 30, style)))


def test_the_reference_cleans_the_text():
    images, found = pictures(), region(4, 4, 30, 30, "MOSAIC  Style")
    settings = replace(QUICK, preset=replace(IMPROVED, style_text="cleaned"))
    assert torch.equal(
        styled(images, regions(found), settings).images,
        styled(images, regions(replace(found, style="mosaic style")), settings).images,
    )
    with pytest.raises(RegionStyleError, match="'Style'"):
        styled(images, regions(replace(found, style="Style")), settings)


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({}, {"optimise": "latent"}, "VAE"),
        ({}, {"optimise": "pixels", "next_iterations": 3}, "next_iterations"),
        ({"start": torch.rand(1, 3, 8, 8)}, {}, r"start: got shape \[1, 3, 8, 8\]"),
        ({"start": torch.rand(1, 3, *SIZE)}, {"start": "noise"}, "one of them"),
    ],
)
def test_settings_that_do_not_fit(options, settings, message):
    with pytest.raises(RegionStyleError, match=message):
        styled(pictures(), regions(region(4, 4, 30, 30)), replace(QUICK, **settings), **options)


def test_regions_of_other_pictures_are_refused():
    with pytest.raises(RegionStyleError, match="regions: got those of 1 pictures"):
        styled(pictures(2), regions(region(4, 4, 30, 30)))


class Stopping:
    """Cancels at an iteration."""

    def __init__(self, at):
        self.at, self.previews = at, []

    def host(self):
        return LocalHost("cpu", on_progress=self.report, cancelled=lambda: self.done >= self.at)

    def report(self, label, done, total, preview):
        self.done = done
        if preview is not None:
            self.previews.append(preview)


def test_cancelled_it_keeps_the_best_and_leaves_out_the_rest():
    images = pictures(2)
    found = regions(region(4, 4, 20, 20), region(30, 10, 50, 34), region(4, 4, 20, 20, image=1), batch=2)
    stop = Stopping(2)
    result = styled(images, found, replace(QUICK, preview_every=1), stop.host())
    rest = "not restyled: thing of picture 1, thing of picture 2"
    assert result.warning == f"cancelled after 2 of 3 iterations: the best picture so far; {rest}"
    assert result.notice == "2 iterations; judged by small CLIP, small features"  # the warning says the rest
    assert result.stopped
    assert not torch.equal(result.images[0, :, 4:20, 4:20], images[0, :, 4:20, 4:20])
    assert torch.equal(result.images[0, :, :, 28:], images[0, :, :, 28:])
    assert torch.equal(result.images[1], images[1])
    assert len(result.history.total) == 2
    assert stop.previews[0].shape[0] == 3
    with pytest.raises(Cancelled):
        styled(images, found, replace(QUICK, keep_best=False), Stopping(2).host())
    with pytest.raises(Cancelled):  # before there is anything to keep
        styled(images, found, QUICK, Stopping(0).host())
    with pytest.raises(Cancelled):  # the best of one iteration is what it began with
        styled(images, found, QUICK, Stopping(1).host())


@pytest.mark.parametrize("batch", [1, 2])
def test_cancelled_between_regions_it_keeps_what_was_finished(batch):
    """The second region, or the second picture's, has not had an iteration yet."""
    images, second = pictures(batch), region(30, 10, 50, 34, image=batch - 1)
    found = regions(region(4, 4, 20, 20), second, batch=batch)
    assert not styled(images, found).stopped
    result = styled(images, found, QUICK, Stopping(3).host())
    assert result.stopped
    rest = "thing" if batch == 1 else "thing of picture 2"
    assert result.warning == f"cancelled: what was finished is kept; not restyled: {rest}"
    assert not torch.equal(result.images[0, :, 4:20, 4:20], images[0, :, 4:20, 4:20])
    assert torch.equal(result.images[-1, :, 10:34, 30:50], images[-1, :, 10:34, 30:50])
    assert not bool(result.masks[-1, 10:34, 30:50].any())


def test_it_stops_when_all_patches_are_satisfied():
    settings = replace(QUICK, threshold=2.0, patience=2, iterations=9)
    assert len(styled(pictures(), regions(region(4, 4, 30, 30)), settings).history.total) == 2
    assert len(styled(pictures(), regions(region(4, 4, 30, 30)), replace(settings, patience=0)).history.total) == 9


def test_the_next_picture_goes_on_with_the_network():
    images = pictures().repeat(2, 1, 1, 1)
    found = regions(region(4, 4, 30, 30), region(4, 4, 30, 30, image=1), batch=2)
    anew = styled(images, found)
    assert torch.equal(anew.images[0], anew.images[1])
    warm = styled(images, found, replace(QUICK, next_iterations=2))
    assert torch.equal(warm.images[0], anew.images[0])
    assert not torch.equal(warm.images[1], warm.images[0])


def test_it_begins_with_a_given_result_or_noise():
    images, found = pictures(), regions(region(4, 4, 30, 30))
    settings = replace(QUICK, optimise="pixels", iterations=1, rate=1e-9, feather=0)
    start = torch.rand(1, 3, *SIZE)
    begun = styled(images, found, settings, start=start)
    inside = (found.union() == 1)[:, None].expand_as(images)
    torch.testing.assert_close(begun.images[inside], start[inside], atol=1e-3, rtol=0)
    noise = styled(images, found, replace(settings, start="noise"))
    assert (noise.images - images)[inside].abs().mean() > 0.1


class Coder:
    """An autoencoder that halves."""

    factor, patcher = 16, None

    def on(self, patcher):
        raise AssertionError

    def encode(self, images):
        assert images.shape[-1] % 16 == 0
        return torch.nn.functional.avg_pool2d(images, 16)

    def decode(self, latents):
        return torch.nn.functional.interpolate(latents, scale_factor=16, mode="nearest")


def test_latents_are_optimised_through_a_decoder():
    by = LocalClip(small_networks(), LocalHost("cpu"), Coder())
    images, found = pictures(), regions(region(4, 4, 36, 36))
    settings = replace(QUICK, optimise="latent", iterations=20)
    result = stylize_local(images, found, by, settings)
    assert result.history.total[-1] < result.history.total[0]
    assert torch.equal(result.images[:, :, :, 42:], images[:, :, :, 42:])


def test_a_large_region_keeps_its_fine_detail():
    """Worked on at a quarter of its size: what was changed is enlarged, not the picture."""
    image = torch.rand(1, 3, 160, 160)
    mask = torch.zeros(160, 160)
    mask[8:152, 8:152] = 1
    found = Regions((region_of("thing", mask, style="mosaic"),), 160, 160)
    settings = replace(QUICK, optimise="pixels", iterations=1, rate=1e-9)
    kept = styled(image, found, settings).images
    blurred = styled(image, found, replace(settings, preset=replace(IMPROVED, enlarge="picture"))).images
    assert (kept - image).abs().max() < 0.02
    assert (blurred - image).abs().mean() > 0.1


@pytest.mark.parametrize("side", [160, 28], ids=["worked on smaller", "at its size"])
def test_blended_by_its_differences_it_meets_the_pictures_colours(side):
    """A lighter start of the same texture: laid over it stays lighter, blended it is the picture again."""
    image = 0.2 + 0.4 * torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(side, side)
    mask[side // 8 : -side // 8, side // 8 : -side // 8] = 1
    found = Regions((region_of("thing", mask, style="mosaic"),), side, side)
    settings = replace(QUICK, optimise="pixels", iterations=1, rate=1e-9, feather=0, largest_scale=1.0)
    over, blended = (
        styled(image, found, replace(settings, blending=blending), start=image + 0.3).images
        for blending in ("over", "poisson")
    )
    inside = (mask == 1).expand_as(image)
    assert torch.equal(blended[~inside], image[~inside])
    assert (over - image)[inside].mean() == pytest.approx(0.3, abs=0.02)
    assert (blended - image)[inside].abs().mean() < 0.12
    detail = [(made[..., 1:] - made[..., :-1])[inside[..., 1:] & inside[..., :-1]] for made in (over, blended)]
    assert torch.corrcoef(torch.stack(detail))[0, 1] > 0.9


@pytest.mark.slow
def test_a_region_of_4000_pixels_is_worked_on_pixel_by_pixel():
    """Its patches, 220 pixels of its own, change single pixels: nothing is enlarged, and nothing smeared."""
    image = torch.full((1, 3, 4000, 4000), 0.5)
    mask = torch.zeros(4000, 4000)
    mask[100:3900, 50:3950] = 1
    found = Regions((region_of("thing", mask, style="mosaic"),), 4000, 4000)
    settings = replace(QUICK, optimise="pixels", iterations=2, size=4096, patch=28, margin=0.0, patches=64)
    made = styled(image, found, settings)
    assert made.warning == ""
    change = (made.images - image)[0].mean(0)
    assert (change[made.masks[0] == 0] == 0).all()
    assert (change.abs() > 1e-4).float().mean() > 1e-4  # where patches were looked at
    sideways = (change[:, 1:] - change[:, :-1]).abs()
    assert sideways.max() > change.abs().max() / 2  # from one pixel to the next


@pytest.mark.parametrize("preset", [REFERENCE, PAPER], ids=lambda p: p.name)
def test_the_learning_rate_is_the_published_one(preset):
    settings = LocalClipSettings(preset=preset)
    rates = [settings.rate_at(i) for i in (0, 98, 99, 198, 199)]
    halving = [5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4]
    assert rates == (halving if preset is REFERENCE else [5e-4] * 5)


def test_a_smear_and_a_hard_edge_say_so_and_a_faint_mask_counts():
    settings = replace(QUICK, optimise="pixels", iterations=1, size=16)
    found = regions(region(4, 2, 50, 38))
    assert (
        "at 16 pixels and enlarged 3.5 times: fine detail of the style is lost"
        in styled(pictures(), found, settings).warning
    )
    assert styled(pictures(), found, replace(settings, size=48)).warning == ""
    faint = regions(region_of("thing", found.items[0].mask * 0.4, style="mosaic"))
    for preset in (PAPER, REFERENCE):
        result = styled(pictures(), faint, replace(settings, preset=preset))
        assert "fine detail is lost" in result.warning
        assert result.masks[found.union() == 1].min() == 1
        assert not torch.equal(result.images, pictures())


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("optimise", ["network", "pixels"])
def test_the_smallest_size_works(preset, optimise):
    settings = replace(QUICK, optimise=optimise, iterations=1, preset=preset, size=16)
    assert styled(pictures(), regions(region(4, 4, 30, 30)), settings).images.shape == (1, 3, *SIZE)


@pytest.mark.parametrize("given", [{"size": 1}, {"size": 15}, {"content_weight": -0.5}, {"threshold": -1.0}])
def test_settings_that_cannot_be_followed_are_refused(given):
    ((name, value),) = given.items()
    with pytest.raises(RegionStyleError, match=f"{name}: got {value}, expected 0"):
        LocalClipSettings(**given)


@pytest.mark.parametrize(
    ("given", "why"), [({"preset": PAPER}, "threshold 0"), ({"patch_weight": 0.0}, "patch_weight 0")]
)
def test_a_patience_that_never_ends_is_refused(given, why):
    with pytest.raises(RegionStyleError, match=f"patience: got 2, expected 0, since with {why}"):
        styled(pictures(), regions(region(4, 4, 30, 30)), replace(QUICK, patience=2, **given))
