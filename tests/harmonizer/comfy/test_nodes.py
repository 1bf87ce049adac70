"""The nodes of harmonisation in ComfyUI: what they give, and what they refuse."""

import pytest

SCRIPT = """
import torch
from regionstyle.nodes.harmonizer.comfy.harmonize_nodes import (
    HarmonizeComposite, MatchColourStatistics, PoissonBlend, RandomPoissonBlend)

said = []
def refused(call):
    try:
        call()
    except Exception as error:
        return str(error)
    return ""

small = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(0))
truth = torch.nn.functional.interpolate(small, (48, 64), mode="bicubic", align_corners=True).clamp(0.05, 0.95)
truth = truth.movedim(1, -1)
mask = torch.zeros(1, 48, 64)
mask[:, 12:36, 16:48] = 1
composite = torch.where(mask[..., None] > 0, truth * 0.7, truth)

class Green:
    def harmonize(self, composite, mask, *, reference=None, reference_mask=None, seed=0, on_step=None):
        on_step(1, 1, None)
        return torch.zeros_like(composite) + torch.tensor([0.0, 1.0, seed / 10]).view(1, 3, 1, 1)

class Enlarges(Green):
    def working_size(self, size):
        return size[0] // 4, size[1] // 4

class Cancels:
    def harmonize(self, *places, **names):
        import comfy.model_management
        comfy.model_management.interrupt_current_processing()
        names["on_step"](1, 1, None)

def cancelled():
    try:
        HarmonizeComposite.execute(mask, composite=composite, harmonizer=Cancels())
    except BaseException as error:
        return type(error).__name__

with torch.inference_mode():
    composite, mask, truth = composite.clone(), mask.clone(), truth.clone()
    plain = HarmonizeComposite.execute(mask, composite=composite)
    image, region = plain.result
    outside = (mask == 0)[..., None].expand_as(image)
    inside = ~outside
    laid = HarmonizeComposite.execute(
        torch.ones(1, 10, 12), foreground=truth[:, :10, :12], background=truth, x=20, y=30, seam=2.0).result
    batch = HarmonizeComposite.execute(torch.cat([mask, mask * 0]), composite=composite.repeat(2, 1, 1, 1))
    tiny = torch.zeros(1, 48, 64)
    tiny[:, 5, 5:9] = 1
    mixed = HarmonizeComposite.execute(torch.cat([tiny, mask]), composite=composite.repeat(2, 1, 1, 1))
    green = HarmonizeComposite.execute(mask, composite=composite, harmonizer=Green(), seed=5).result[0]
    enlarged = HarmonizeComposite.execute(mask, composite=composite, harmonizer=Enlarges()).ui.as_dict()
    guided = HarmonizeComposite.execute(mask, composite=composite, reference=truth * 0.2).result[0]
    matched = MatchColourStatistics.execute(composite, mask, method="mkl").result[0]
    blended, where = PoissonBlend.execute(truth[:, :20, :20], truth, torch.ones(1, 20, 20), x=8, y=8).result
    pairs = RandomPoissonBlend.execute(truth, mask, variants=3, seed=2, strength=1.0).result
    seen = {
        "better": float((image - truth)[inside].square().mean() / (composite - truth)[inside].square().mean()),
        "outside": bool(torch.equal(image[outside], composite[outside])),
        "region": bool(torch.equal(region, mask)),
        "laid": [list(laid[0].shape), float(laid[1].sum())],
        "second": bool(torch.equal(batch.result[0][1], composite[0])),
        "warning": str(batch.ui.as_dict() if batch.ui else ""),
        "mixed": [bool(torch.equal(mixed.result[0][0], composite[0])), bool(torch.equal(mixed.result[0][1], image[0])),
                  str(mixed.ui.as_dict())],
        "green": green[0, 20, 30].tolist(),
        "enlarged": str(enlarged),
        "guided": float((guided - image).abs().max()),
        "matched": bool(torch.equal(matched[outside], composite[outside]) and not torch.equal(matched, composite)),
        "blended": float(where.sum()),
        "pairs": [list(x.shape) for x in pairs],
        "differ": len({float(x.sum()) for x in pairs[0]}),
        "untouched": bool(torch.equal(composite, torch.where(mask[..., None] > 0, truth * 0.7, truth))),
        "refused": [
            refused(lambda: HarmonizeComposite.execute(mask)),
            refused(lambda: HarmonizeComposite.execute(mask, composite=composite, foreground=truth)),
            refused(lambda: HarmonizeComposite.execute(mask, foreground=truth)),
            refused(lambda: HarmonizeComposite.execute(torch.ones_like(mask), composite=composite)),
            refused(lambda: HarmonizeComposite.execute(mask.repeat(3, 1, 1), composite=composite)),
            refused(lambda: HarmonizeComposite.execute(mask, composite=composite, harmonizer="R2R")),
            refused(lambda: HarmonizeComposite.execute(mask, composite=composite, reference_mask=mask)),
            refused(lambda: HarmonizeComposite.execute(mask, composite=composite, seam=-1.0)),
            refused(lambda: MatchColourStatistics.execute(composite, mask, method="magic")),
            refused(lambda: MatchColourStatistics.execute(composite, torch.ones_like(mask))),
            refused(lambda: PoissonBlend.execute(truth, truth, mask, x=500)),
            refused(lambda: RandomPoissonBlend.execute(truth, mask * 0)),
            refused(lambda: HarmonizeComposite.execute(
                mask, composite=composite.repeat(3, 1, 1, 1), reference=truth.repeat(2, 1, 1, 1))),
        ],
    }
    seen["cancelled"] = cancelled()
print(json.dumps(seen))
"""

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def seen(request, tmp_path_factory):
    run = request.getfixturevalue(request.param)
    return run(SCRIPT, args=("--base-directory", str(tmp_path_factory.mktemp("base"))))


def test_a_composite_is_harmonised_and_the_rest_is_bit_equal(seen):
    assert seen["better"] < 0.3
    assert seen["outside"]
    assert seen["region"]
    assert seen["untouched"]


def test_a_foreground_is_laid_into_its_background(seen):
    assert seen["laid"] == [[1, 48, 64, 3], 120.0]


def test_an_empty_mask_is_said_and_its_picture_stays(seen):
    assert seen["second"]
    assert "picture 2 is empty" in seen["warning"]


def test_a_picture_that_cannot_be_harmonised_does_not_stop_its_batch(seen):
    stays, done, said = seen["mixed"]
    assert stays
    assert done
    assert "picture 1 stays as it is: mask: got 4 pixels" in said


def test_another_harmoniser_and_a_reference(seen):
    assert seen["green"] == pytest.approx([0, 1, 0.5])
    assert seen["guided"] > 0.02
    assert "harmonised at 16 x 12 pixels and enlarged 4.0 times" in seen["enlarged"]


def test_the_other_nodes(seen):
    assert seen["matched"]
    assert seen["blended"] == 400
    assert seen["pairs"] == [[3, 48, 64, 3], [3, 48, 64], [3, 48, 64, 3]]
    assert seen["differ"] == 3


def test_cancel_reaches_the_harmoniser(seen):
    assert seen["cancelled"] == "InterruptProcessingException"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (0, "composite: got nothing"), (1, "Take one of them off"), (2, "no background"), (3, "covers all"),
        (4, "one mask or one per image"), (5, "harmonizer"), (6, "reference_mask"), (7, "seam"), (8, "method"),
        (9, "0 pixels outside"), (10, "place"), (11, "mask: got 0 pixels"),
        (12, "reference: got 2 pictures, expected 1 picture, or 3, one for each composite"),
    ],
)  # fmt: skip
def test_what_is_refused(seen, number, says):
    assert says in seen["refused"][number]
