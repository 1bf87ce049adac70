"""Words with masks: which maps they ask for, and how the losses of a pass are meaned."""

import pytest
import torch

from regionstyle.nodes.engine.attention.losses import cover_loss, focus_loss, reverse_focus_loss
from regionstyle.nodes.engine.attention.supervision import (
    KINDS,
    PAPER,
    PUBLISHED,
    AttentionTarget,
    LossSettings,
    Supervision,
)
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.tinyworld.networks import new_unet

WORDS = torch.tensor([False] + [True] * 8 + [False] * 68)


def box(top, left, bottom, right, side=16):
    mask = torch.zeros(side, side)
    mask[top:bottom, left:right] = 1
    return mask


def target(phrase, tokens, mask):
    return AttentionTarget(phrase, tuple(tokens), mask)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return new_unet().eval()


def seen_by(unet, supervision, batch):
    random = torch.Generator().manual_seed(3)
    x, text = torch.randn(batch, 4, 16, 16, generator=random), torch.randn(batch, 77, 128, generator=random)
    with supervision.tap(unet) as tap:
        unet(x, torch.tensor(300), text)
    return tap.maps


def test_every_sample_has_its_own_words_and_number_of_them(unet):
    samples = [
        [target("a", [1, 2], box(0, 0, 8, 8)), target("b", [5], box(8, 8, 16, 16))],
        [target("c", [3], box(4, 0, 12, 9))],
    ]
    both = Supervision(samples, WORDS)
    maps = seen_by(unet, both, 2)
    together = both.loss(maps)
    alone = [Supervision([sample], WORDS) for sample in samples]
    parts = [
        one.loss({path: seen[row : row + 1, : len(one.samples[0])] for path, seen in maps.items()})
        for row, one in enumerate(alone)
    ]
    assert together.counted == 3
    assert float(together.focus.detach()) == pytest.approx(float(sum(part.focus for part in parts)) / 2, rel=1e-5)
    assert float(together.cover.detach()) == pytest.approx(float(sum(part.cover for part in parts)) / 2, rel=1e-5)


def test_masks_without_contrast_are_skipped_and_counted(unet):
    good, empty, full = box(0, 0, 8, 8), torch.zeros(16, 16), torch.ones(16, 16)
    some = Supervision([[target("a", [1], good), target("b", [2], empty), target("c", [3], full)], []], WORDS)
    assert some.skipped == [(0, "b"), (0, "c")]
    only = Supervision([[target("a", [1], good)]], WORDS)
    maps = seen_by(unet, some, 2)
    found = some.loss(maps)
    assert found.counted == 1
    rows = {path: seen[:1] for path, seen in maps.items()}
    assert float(found.total) == pytest.approx(float(only.loss(rows).total), rel=1e-6)
    nothing = Supervision([[target("b", [2], empty)]], WORDS)
    lost = nothing.loss(seen_by(unet, nothing, 1))
    assert (float(lost.total), lost.counted) == (0.0, 0)


def test_the_published_preset_is_meaned_as_published(unet):
    """Per token, then over a word's tokens, a sample's objects, layers and samples; from a softmax over the tokens."""
    samples = [[target("a", [1, 2, 3], box(0, 0, 8, 8)), target("b", [6, 7], box(8, 4, 16, 16))]]
    supervision = Supervision(samples, WORDS, PUBLISHED)
    maps = seen_by(unet, supervision, 1)
    for seen in maps.values():
        assert torch.allclose(seen.sum(1), torch.ones(()), atol=1e-5)
    expected = []
    for seen in maps.values():
        size = seen.shape[-2:]
        values, column = [], 0
        for one in samples[0]:
            mask = torch.nn.functional.interpolate(one.mask[None, None], size, mode="area")
            tokens = [seen[:, column + at : column + at + 1] for at in range(len(one.tokens))]
            column += len(one.tokens)
            both = [
                0.1 * focus_loss(token, mask, 0.1) + 5e-5 * cover_loss(token, mask, 2.0, balanced=False)
                for token in tokens
            ]
            values.append(torch.stack(both).mean())
        expected.append(torch.stack(values).mean())
    assert float(supervision.loss(maps).total) == pytest.approx(float(torch.stack(expected).mean()), abs=1e-6)


def test_the_paper_has_one_map_per_phrase(unet):
    """Layers, heads and tokens are averaged before there is a loss; Focus and Cover are summed over the phrases."""
    samples = [[target("a", [1, 2, 3], box(0, 0, 8, 8)), target("b", [6, 7], box(8, 4, 16, 16))]]
    supervision = Supervision(samples, WORDS, PAPER)
    random = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 4, 16, 16, generator=random), torch.randn(1, 77, 128, generator=random)
    with supervision.tap(unet) as tap:
        unet(x, torch.tensor(300), text)
    mean, losses = tap.mean(), []
    for number, one in enumerate(samples[0]):
        seen, mask = mean[:, number : number + 1] / len(one.tokens), one.mask[None, None]
        mask = torch.nn.functional.interpolate(mask, mean.shape[-2:], mode="area")
        losses.append((reverse_focus_loss(seen, mask, 0.1), cover_loss(seen, mask, 2.0, balanced=False)))
    found = supervision.loss(tap.maps)
    assert float(found.focus.detach()) == pytest.approx(float(losses[0][0] + losses[1][0]), rel=1e-5)
    assert float(found.cover.detach()) == pytest.approx(float(losses[0][1] + losses[1][1]), rel=1e-5)
    assert float(found.total.detach()) == pytest.approx(0.1 * float(found.focus) + 0.2 * float(found.cover), rel=1e-5)
    one = next(iter(tap.maps))
    only = supervision.loss(tap.maps, {one: 1.0})
    alone = supervision.loss({one: torch.nn.functional.interpolate(
        tap.maps[one], mean.shape[-2:], mode="bilinear", antialias=True)})  # fmt: skip
    assert float(only.total) == pytest.approx(float(alone.total), rel=1e-5)


def test_the_border_is_left_out_on_each_grid(unet):
    mask = box(3, 3, 9, 9)  # on odd places: coarser grids have a border
    supervision = Supervision([[target("a", [1], mask)]], WORDS, LossSettings(band=0.3))
    maps = seen_by(unet, supervision, 1)
    plain = Supervision([[target("a", [1], mask)]], WORDS)
    for path, seen in maps.items():
        grid = torch.nn.functional.interpolate(mask[None, None], seen.shape[-2:], mode="area")
        soft = bool(((grid - 0.5).abs() < 0.3).any())
        with_border, without = (one.loss({path: seen}) for one in (plain, supervision))
        assert (float(with_border.total.detach()) == pytest.approx(float(without.total.detach()))) != soft


def gradient_size(unet, kind):
    supervision = Supervision([[target("a", [4], box(0, 0, 8, 8))]], WORDS, LossSettings(kind, peak=kind == "joint"))
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    text = torch.randn(1, 77, 128, generator=torch.Generator().manual_seed(2))
    with supervision.tap(unet) as tap:
        unet(x, torch.tensor(300), text)
    (gradient,) = torch.autograd.grad(supervision.loss(tap.maps).total, x)
    return float(gradient.abs().max())


def test_a_style_of_one_token_has_a_gradient_only_where_there_is_a_competitor(unet):
    sizes = {kind: gradient_size(unet, kind) for kind in KINDS}
    none = sizes.pop("selected")  # rounding
    assert min(sizes.values()) > 100 * none, (none, sizes)


def test_joint_is_a_share_of_everything(unet):
    targets = [[target("a", [1, 2], box(0, 0, 8, 8))]]
    text, joint = (Supervision(targets, WORDS, LossSettings(kind)) for kind in ("text", "joint"))
    of_words, of_all = seen_by(unet, text, 1), seen_by(unet, joint, 1)
    assert all(bool((of_all[path] < seen).all()) for path, seen in of_words.items())
    assert float(joint.loss(of_all).total.detach()) > 0


def test_maps_of_phrases_are_means_of_their_tokens():
    supervision = Supervision(
        [[target("a", [1, 2], box(0, 0, 8, 8)), target("b", [5], box(0, 0, 4, 4))]], WORDS, PUBLISHED
    )
    maps = torch.arange(3.0).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert supervision.of_phrases(maps)[0, :, 0, 0].tolist() == [0.5, 2.0]


def test_rows_repeat_the_samples():
    supervision = Supervision([[target("a", [1], box(0, 0, 8, 8))]], WORDS)
    assert supervision.rows(3).groups.shape == (3, 1, 77)


@pytest.mark.parametrize("tokens", [[], [0], [77], [20]])
def test_tokens_must_be_words(tokens):
    with pytest.raises(RegionStyleError, match="tokens of 'a'"):
        Supervision([[target("a", tokens, box(0, 0, 8, 8))]], WORDS)


def test_a_phrase_that_is_all_of_its_prompt_has_no_odds():
    words = torch.tensor([False, True, False])
    with pytest.raises(RegionStyleError, match="only 'a'"):
        Supervision([[target("a", [1], box(0, 0, 8, 8))]], words)


@pytest.mark.parametrize("wrong", [
    {"kind": "all"}, {"center": "mean"}, {"tau": 0.0}, {"kappa": float("nan")}, {"band": 0.5}, {"aggregation": "sum"},
    {"kind": "selected", "aggregation": "paper"},
])  # fmt: skip
def test_wrong_settings(wrong):
    with pytest.raises(RegionStyleError):
        LossSettings(**wrong)
