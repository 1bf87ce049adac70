"""The painter "sms" with the tiny world: what it changes, follows, refuses, and keeps when it is cancelled."""

import pytest
import torch

from regionstyle.nodes.app.edit import EditSettings, edit
from regionstyle.nodes.app.local_model import TINY, LocalModel, open_model
from regionstyle.nodes.app.painters.registry import PainterContext, painter_named
from regionstyle.nodes.app.sms import TINY_USUAL, sms_settings, usual_sms
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.sms.presets import PAPER, REFERENCE

QUICK = {"iterations": 2}


class Stopping:
    """A host's cancel, told once, at a progress of its choice."""

    def __init__(self):
        self.at, self.done, self.labels = None, None, []

    def when(self, done):
        self.at, self.done = done, None

    def report(self, label, done, total, preview):
        self.labels.append((label, done, preview is not None))
        self.done = done

    def cancelled(self):
        if self.at is None or self.done != self.at:
            return False
        self.at = None
        return True


@pytest.fixture(scope="module")
def stop():
    return Stopping()


@pytest.fixture(scope="module")
def model(stop):
    host = LocalHost("cpu", on_progress=stop.report, cancelled=stop.cancelled)
    return open_model(TINY, host, styles=["neon", "mosaic"])


def picture(*size):
    return torch.rand(1, 3, *(size or (128, 128)), generator=torch.Generator().manual_seed(0))


def boxed(box=(30, 30, 90, 90), style="neon", phrase="star"):
    return Region.of_box(phrase, box, (128, 128), style=style)


def painted(model, regions, image=None, given=QUICK, **settings):
    chosen = EditSettings(**settings)
    painter = painter_named("sms", PainterContext(model, chosen, sms=usual_sms(given, True)))
    with model.predictor.loaded():
        return edit(picture() if image is None else image, regions, painter, chosen)


@pytest.mark.slow
def test_it_paints_inside_its_region_only_and_the_same_each_time(model):
    first, again, other = (painted(model, [boxed()], seed=seed, feather=0) for seed in (3, 3, 4))
    outside = (first.mask[0] == 0).expand_as(first.image)
    assert (~outside).float().mean() == pytest.approx((60 / 128) ** 2)
    assert torch.equal(first.image[outside], picture()[outside])
    assert (first.image - picture())[~outside].abs().mean() > 0.01
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert (first.idle, first.notes, first.stopped) == ({"neon": ""}, (), False)


@pytest.mark.slow
def test_several_regions_in_turn_each_by_its_own_expert(model):
    regions = [boxed((4, 4, 50, 50)), boxed((70, 70, 120, 120), "mosaic", "ring")]
    both = painted(model, regions)
    first = painted(model, regions[:1])
    second = painted(model, regions[1:], first.image)
    assert torch.equal(both.mask, torch.maximum(first.mask, second.mask))
    assert torch.equal(both.image, second.image)
    assert both.idle == {"neon": "", "mosaic": ""}
    other = painted(model, [boxed((4, 4, 50, 50), "mosaic")])
    assert not torch.equal(first.image, other.image)


def test_the_network_is_as_before(model):
    stack = model.predictor.experts
    before = {name: tensor.clone() for name, tensor in model.predictor.network.state_dict().items()}
    painted(model, [boxed()])
    assert (model.predictor.experts is stack, stack.attached) == (True, True)
    after = model.predictor.network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_an_empty_region_stays_and_is_said(model):
    made = painted(model, [Region("star", (0, 0, 0, 0), torch.zeros(128, 128), "neon")])
    assert torch.equal(made.image, picture())
    assert "empty mask, unchanged: image 0" in made.warning(picture())


@pytest.mark.slow
def test_a_large_whole_is_painted_in_tiles_and_one_crop_says_what_is_lost(model, stop):
    image = picture(128, 200)
    whole = Region.of_box("whole picture", (0, 0, 200, 128), (128, 200), style="neon")
    tiled, crop = (painted(model, [whole], image, seed=1, detail=detail) for detail in ("full", "native"))
    assert all(bool((made.mask == 1).all()) for made in (tiled, crop))
    assert not torch.equal(tiled.image, crop.image)
    assert (tiled.image - image).abs().mean() > 0.01
    assert ("matching style", 2, True) in stop.labels


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 4}, "sms with --steps"),
        ({"cfg": 2.0}, "sms with --cfg"),
        ({"strength": 0.5}, "sms with --strength"),
        ({"negative": "fog"}, "a negative prompt"),
        ({"template": "{style}"}, "a template"),
    ],
)
def test_settings_of_redrawing_are_refused_before_it_paints(model, settings, message):
    with pytest.raises(RegionStyleError, match=message):
        painted(model, [boxed()], **settings)


def test_styles_and_models_without_an_expert_are_refused(model):
    with pytest.raises(RegionStyleError, match="style: got 'cubism', expected one of neon, mosaic"):
        painted(model, [boxed(style="cubism")])
    with pytest.raises(RegionStyleError, match="style: got ''"):
        painted(model, [boxed(style="")])
    plain = LocalModel(open_model(TINY, LocalHost("cpu")).predictor, True)
    with pytest.raises(RegionStyleError, match="a model without style experts"):
        painted(plain, [boxed()])


def test_cancelled_it_keeps_the_picture_so_far_and_leaves_out_the_rest(model, stop):
    regions = [boxed((4, 4, 50, 50)), boxed((70, 70, 120, 120), "mosaic", "ring")]
    stop.when(2)
    made = painted(model, regions, given={"iterations": 4})
    assert made.stopped
    assert made.notes == (
        "star: cancelled after 2 of 4 iterations: the picture so far", "not restyled, since it was stopped: ring"
    )  # fmt: skip
    assert not torch.equal(made.image[..., 4:50, 4:50], picture()[..., 4:50, 4:50])
    assert torch.equal(made.image[..., 64:, 64:], picture()[..., 64:, 64:])
    stop.when(0)
    nothing = painted(model, [regions[0]], given={"iterations": 4})
    assert (nothing.stopped, nothing.changed) == (True, False)
    assert nothing.notes == ("not restyled, since it was stopped: star",)
    assert torch.equal(nothing.image, picture())


def test_a_run_that_moves_nothing_says_so(model):
    made = painted(model, [boxed()], given={"iterations": 2, "rate": 1e-6})
    assert made.notes == ("star: the iterations changed nothing that can be seen: raise iterations, rate or strength",)


def test_usual_settings_are_the_tiny_worlds_or_the_published_ones():
    tiny, published = usual_sms({}, True), usual_sms({}, False)
    assert (tiny.settings.iterations, tiny.settings.guidance, tiny.strength) == tuple(TINY_USUAL.values())
    assert (published.settings.iterations, published.settings.guidance, published.strength) == (500, None, 0.8)
    given = usual_sms({"iterations": 7, "content": 0.001, "preset": "paper", "margin": 1.0, "strength": 2.0}, True)
    assert (given.settings.iterations, given.settings.balance, given.framing.margin) == (7, 0.001, 1.0)
    assert (given.settings.preset, tiny.settings.preset, given.strength) == (PAPER, REFERENCE, 2.0)
    for wrong, message in (({"steps": 3}, "steps: got it"), ({"seed": 3}, "seed: got it"), ({"rate": -1}, "rate")):
        with pytest.raises(RegionStyleError, match=message):
            usual_sms(wrong, True)
    assert not {"seed", "detail"} & set(sms_settings())
