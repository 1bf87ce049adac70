"""Teaching an expert on every class of networks, against a transcription of the objective and losses by hand.

Small random networks of diffusers' real classes. The transcription reads what the networks' attention was really called
with and what they gave, and computes all else anew in float64.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from family_models import SHAPES, diffusers_network, diffusers_scheduler, family_noise
from torch.nn import functional as F

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.attention.supervision import AttentionTarget
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.engine.predictor.schedule import FlowSchedule
from regionstyle.nodes.engine.training.lora_trainer import training_times
from regionstyle.nodes.sampler.training.examples import Example, PairDraw, PairExamples, encode_pairs
from regionstyle.nodes.sampler.training.expert import ExpertTrainer
from regionstyle.nodes.sampler.training.run import new_expert
from regionstyle.nodes.sampler.training.settings import ExpertTrainSettings

SETTINGS = ExpertTrainSettings(
    steps=4, batch=2, rate=0.05, rank=2, warmup=0, watched="all", background=2.0, focus=0.3, cover=0.4
)
PLAIN = {"focus": 0.1, "cover": 0.1, "watched": "useful"}  # the defaults, which a preset leaves no choice but
FAMILIES = ["sd", "v", "sdxl", "sd3", "sd35", "flux", "schnell"]
SOME = ("sd", "sd3", "flux")  # the fast tests have these
JOINT = ["sd3", "sd35", "flux", "schnell"]
SIDE = 8  # of the latent
WORDS = 10  # tokens 1 to 10 are words
TOKENS = {"mosaic": (4, 5), "red star": (2, 3)}


class Vae:
    """What a predictor asks of an autoencoder that is not used here."""

    class config:  # noqa: N801
        block_out_channels, scaling_factor = (1, 1, 1, 1), 1.0


def predictor_of(family, dtype=torch.float32):
    scheduler = diffusers_scheduler("sd" if family == "v" else family)
    if family == "v":
        scheduler.register_to_config(prediction_type="v_prediction")
    network = diffusers_network("sd" if family == "v" else family).to(dtype)
    return DiffusersPredictor(network, Vae(), None, None, scheduler, LocalHost("cpu"))


def box(top, left, bottom, right):
    mask = torch.zeros(SIDE * 8, SIDE * 8)
    mask[top:bottom, left:right] = 1
    return mask


# On odd latent cells, so that tokens of two by two of them are half inside; two things of other sizes.
MASKS = box(8, 8, 40, 56), box(24, 0, 64, 40)


def examples_of(family, dtype=torch.float32):
    length, width, pooled, channels = SHAPES["sd" if family == "v" else family]
    valid = torch.zeros(1, length, dtype=torch.bool)
    valid[0, 1 : WORDS + 1] = True
    text = Text(
        family_noise(1, length, width, seed=1).to(dtype) * 2, family_noise(1, pooled, seed=2).to(dtype),
        [[0] * length], [[""] * length], valid,
    )  # fmt: skip
    made = []
    for number, mask in enumerate(MASKS):
        latent, source = (family_noise(channels, SIDE, SIDE, seed=10 + number + 5 * k).to(dtype) for k in (0, 1))
        area = F.avg_pool2d(mask[None, None], 8)[0].to(dtype)
        targets = tuple(AttentionTarget(phrase, tokens, mask) for phrase, tokens in TOKENS.items())
        made.append(Example(str(number), "p", latent, source, area, targets, (), str(number)))
    return PairExamples(made, {"p": text, "": text}, "mark")


class Training:
    """A trainer with its expert, shaken so that all of it has an effect, on a network."""

    def __init__(self, family, settings=SETTINGS, dtype=torch.float32, weights_dtype=torch.float32):
        self.predictor, self.examples = predictor_of(family, dtype), examples_of(family, weights_dtype)
        self.weights = ExpertWeights(new_expert(self.predictor.network, "x", "mosaic", settings)).to(weights_dtype)
        self.settings, self.stack = settings, ExpertStack(self.predictor.network, [self.weights])

    def __enter__(self):
        self.stack.attach().set(Gates({"x": 1.0}))
        self.weights.requires_grad_(True)
        random = torch.Generator().manual_seed(5)
        for parameter in self.weights.parameters():
            parameter.data.add_((torch.randn(parameter.shape, generator=random) * 0.05).to(parameter))
        self.trainer = ExpertTrainer(self.predictor, self.weights.parameters(), self.examples, self.settings)
        return self

    def __exit__(self, *error):
        self.stack.detach()

    def draws(self, dtype=torch.float32):
        shape = self.examples.examples[0].latent.shape
        return [
            PairDraw(example, timestep, family_noise(*shape, seed=30 + timestep).to(dtype))
            for example, timestep in zip(self.examples.examples, (150, 700), strict=True)
        ]

    def loss(self, draws):
        with self.trainer._around(draws):
            return self.trainer._losses(draws).sum()


@pytest.fixture
def attended(monkeypatch):
    """(q, k) `[B,H,N,D]` of every attention, in order."""
    seen, fused = [], F.scaled_dot_product_attention

    def attention(query, key, value, **options):
        seen.append((query.detach().double(), key.detach().double()))
        return fused(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    return seen


def places_and_words(family, q, k):
    """Image queries and text keys of an attention over text, and the side of its grid; None for others."""
    words = SHAPES["sd" if family == "v" else family][0]
    if family not in JOINT:
        return (q, k, math.isqrt(q.shape[2])) if k.shape[2] == words else None
    side, places = SIDE // 2, (SIDE // 2) ** 2
    if q.shape[2] < words + places:
        return None  # SD3.5's attention over the image alone
    if family.startswith("sd3"):
        return q[:, :, :places], k[:, :, places : places + words], side
    return q[:, :, words : words + places], k[:, :, :words], side


def logodds(q, k, tokens):
    """`[N]` of one sample: log-odds of tokens against the other words, mean over heads."""
    logits = q @ k.mT / math.sqrt(q.shape[-1])  # [H,N,M]
    rest = [word for word in range(1, WORDS + 1) if word not in tokens]
    own = logits[..., list(tokens)].exp().sum(-1).log() - logits[..., rest].exp().sum(-1).log()
    return (own - math.log(len(tokens) / len(rest))).mean(0)


def focus(c, m, tau):
    u = m / m.sum()
    inside = m > 0
    return float((u[inside] * (u[inside].log() - (c / tau).log_softmax(0)[inside])).sum())


def cover(c, m, kappa):
    center = c.sort().values[(len(c) - 1) // 2]
    n, total = m.sum(), len(m)
    weight = m * total / (2 * n) + (1 - m) * total / (2 * (total - n))
    p = torch.sigmoid(kappa * (c - center))
    return float((weight * -(m * p.log() + (1 - m) * (1 - p).log())).mean())


def attention_by_hand(family, attended, settings):
    """The attention losses of both samples."""
    totals = []
    layers = [found for q, k in attended if (found := places_and_words(family, q, k)) is not None]
    assert len(layers) >= 2
    for row, mask in enumerate(MASKS):
        each = []
        for q, k, side in layers:
            cell = len(mask) // side
            m = mask.double().reshape(side, cell, side, cell).mean((1, 3)).flatten()
            for tokens in TOKENS.values():
                c = logodds(q[row], k[row], tokens)
                each.append(settings.focus * focus(c, m, settings.tau) + settings.cover * cover(c, m, settings.kappa))
        totals.append(sum(each) / len(each))
    return totals


def packed(x):
    """`[C,h,w]` -> `[h/2*w/2, 4C]`: tokens row by row, in each a channel's four places row by row."""
    channels, height, width = x.shape
    cells = x.reshape(channels, height // 2, 2, width // 2, 2)
    return cells.permute(1, 3, 0, 2, 4).reshape(height // 2 * (width // 2), channels * 4)


def objective_by_hand(family, draws, output, settings):
    """The weighted noise errors of both samples, from what the network gave."""
    scheduler, found = diffusers_scheduler("sd" if family == "v" else family), []
    for row, draw in enumerate(draws):
        x0, eps = draw.example.latent.double(), draw.noise.double()
        if family in JOINT:
            target = eps - x0
        elif family == "v":
            alpha = scheduler.alphas_cumprod[draw.timestep].double()
            target = alpha.sqrt() * eps - (1 - alpha).sqrt() * x0
        else:
            target = eps
        weight = draw.example.area + (1 - draw.example.area) * settings.background
        weight = weight.double().expand_as(target)
        got = output[row].detach().double()
        if family in ("flux", "schnell"):
            target, weight = packed(target), packed(weight)
            got = got[: len(target)]
        found.append(float((weight * (got - target).square()).mean()))
    return found


def outputs_of(network):
    """What a network gives, and is given, in every pass."""
    seen = []
    network.register_forward_hook(
        lambda module, args, kwargs, out: seen.append((kwargs, getattr(out, "sample", out[0]))), with_kwargs=True
    )
    return seen


def fast_are(*some):
    """Every family once, those not named marked slow."""
    return [one if one in some else pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES]


@pytest.mark.parametrize("family", fast_are(*SOME))
def test_the_loss_is_that_of_the_transcription(family, attended):
    with Training(family) as training, torch.no_grad():
        seen, draws = outputs_of(training.predictor.network), training.draws()
        with training.trainer._around(draws):
            found = training.trainer._losses(draws).tolist()
    (given, output) = seen[-1]
    noise, words = objective_by_hand(family, draws, output, SETTINGS), attention_by_hand(family, attended, SETTINGS)
    assert all(math.isfinite(one) for one in found)
    assert min(words) > 0.05
    for got, wanted in zip(found, [a + b for a, b in zip(noise, words, strict=True)], strict=True):
        assert got == pytest.approx(wanted, rel=2e-4)
    if family == "flux":
        assert given["guidance"].tolist() == [1.0, 1.0], "told in training as in the published script"


@pytest.mark.parametrize("family", fast_are(*SOME))
def test_a_step_changes_the_expert_and_nothing_else(family):
    with Training(family) as training:
        before = {name: tensor.clone() for name, tensor in training.predictor.network.state_dict().items()}
        expert = [parameter.detach().clone() for parameter in training.weights.parameters()]
        loss = training.trainer.step()
        assert math.isfinite(loss)
        assert all(torch.equal(before[name], now) for name, now in training.predictor.network.state_dict().items())
        assert not any(parameter.requires_grad for parameter in training.predictor.network.parameters())
        changed = [not torch.equal(a, b) for a, b in zip(expert, training.weights.parameters(), strict=True)]
        assert sum(changed) >= 0.8 * len(changed), "the last block's text may reach nothing"


@pytest.mark.parametrize("losses", [{"cover": 0.0}, {"preset": "paper"}], ids=["log-odds", "paper"])
@pytest.mark.parametrize("family", fast_are("flux"))
def test_gradients_agree_with_finite_differences(family, losses):
    """In float64, to all of the expert at once; the rotation of Flux is computed in float32 whatever the dtype.

    Of losses without a median or a highest value, which have no gradient by design.
    """
    step, settings = 1e-3 if family in ("flux", "schnell") else 1e-5, replace(SETTINGS, **{**PLAIN, **losses})
    with Training(family, settings, dtype=torch.float64, weights_dtype=torch.float64) as training:
        draws, parameters = training.draws(torch.float64), list(training.weights.parameters())
        made = torch.autograd.grad(training.loss(draws), parameters, allow_unused=True)
        way = [family_noise(*p.shape, seed=90 + at).double() for at, p in enumerate(parameters)]
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, one in zip(parameters, way, strict=True):
                    parameter.add_(sign * step * one)
                ends.append(float(training.loss(draws)))
                for parameter, one in zip(parameters, way, strict=True):
                    parameter.sub_(sign * step * one)
    slope = (ends[0] - ends[1]) / (2 * step)
    along = sum(float((one * w).sum()) for one, w in zip(made, way, strict=True) if one is not None)
    assert abs(slope) > 1e-3
    assert along == pytest.approx(slope, rel=2e-3)


@pytest.mark.parametrize("family", fast_are("sd3", "flux"))
def test_checkpointing_is_exact(family):
    """Layers that run again in the backward pass are seen again: loss and gradients are the same bits."""
    found = []
    for checkpointed in (False, True):
        with Training(family) as training:
            if checkpointed:
                training.predictor.network.enable_gradient_checkpointing()
                training.predictor.network.train()
            found.append(training.trainer._summed(training.draws(), 2))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize("family", fast_are("flux"))
def test_half_the_precision_gives_nearly_the_same(family):
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        with Training(family, dtype=dtype) as training:
            found.append(training.trainer._summed(training.draws(), 2))
            assert math.isfinite(training.trainer.step())
            assert all(parameter.dtype == torch.float32 for parameter in training.weights.parameters())
    assert found[1][0] == pytest.approx(found[0][0], rel=0.05)
    full, half = (torch.cat([one.flatten() for one in gradients]) for _, gradients in found)
    assert F.cosine_similarity(full, half, dim=0) > 0.97


def test_flux_sees_the_picture_before_as_kontext_does():
    """Its tokens stand after the noisy ones, with the same rows and columns under picture 1; only the first count."""
    shown = replace(SETTINGS, source="shown")
    found = {}
    for settings in (SETTINGS, shown):
        with Training("flux", settings) as training, torch.no_grad():
            seen, draws = outputs_of(training.predictor.network), training.draws()
            with training.trainer._around(draws):
                found[settings.source] = training.trainer._losses(draws)
                maps = training.trainer._watched_maps()
            given, output = seen[-1]
    places = (SIDE // 2) ** 2
    ids, tokens = given["img_ids"], given["hidden_states"]
    assert tokens.shape[1] == len(ids) == output.shape[1] == 2 * places
    assert ids[:places, 0].unique().tolist() == [0]
    assert ids[places:, 0].unique().tolist() == [1]
    assert torch.equal(ids[:places, 1:], ids[places:, 1:])
    for row, draw in enumerate(draws):
        assert torch.equal(tokens[row, places:], packed(draw.example.source))
        # The noisy picture at the flow's level.
        level = float(given["timestep"][row])
        assert level == pytest.approx((draw.timestep + 1) / 1000, abs=1e-6)
        wanted = packed(torch.lerp(draw.example.latent, draw.noise, level))
        torch.testing.assert_close(tokens[row, :places], wanted, rtol=1e-4, atol=1e-5)
    assert all(seen.shape[-2:] == (SIDE // 2, SIDE // 2) for seen in maps.values()), "of the picture that is drawn"
    assert objective_by_hand("flux", draws, output, shown) != pytest.approx(found["hidden"].tolist(), rel=1e-2)
    assert not torch.allclose(found["hidden"], found["shown"], rtol=1e-3)


def test_a_batch_may_be_cut_while_a_picture_is_shown():
    with Training("flux", replace(SETTINGS, source="shown")) as training:
        loss, whole = training.trainer._summed(training.draws(), 2)
        again, parts = training.trainer._summed(training.draws(), 1)
    assert loss == pytest.approx(again, rel=1e-5)
    assert all((a - b).norm() <= 1e-3 * a.norm() + 1e-6 for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_other_networks_cannot_be_shown_a_picture(family):
    settings = replace(SETTINGS, source="shown")
    with pytest.raises(RegionStyleError, match=r"reference picture: got a model of the .*FLUX class \(Kontext\)"):
        encode_pairs(predictor_of(family), [SimpleNamespace()], SIDE * 8, settings)
    with Training(family, settings) as training, pytest.raises(RegionStyleError, match="source: hidden"):
        training.trainer.step()


def test_references_are_latents_of_the_pictures():
    predictor, text = predictor_of("flux"), examples_of("flux").texts["p"]
    x = family_noise(4, 16, SIDE, SIDE)
    with pytest.raises(RegionStyleError, match="reference picture: got \\[2, 4, 8, 8\\]"), predictor.showing(x[:2, :4]):
        pass
    with predictor.showing(x[:3]), pytest.raises(RegionStyleError, match="3 pictures, or a multiple"):
        predictor.predict(x, 0.5, text)
    with torch.no_grad(), predictor.showing(x[:2, :, :5, :7]):  # another size, odd: padded as pictures are
        pair = predictor.predict_pair(x[:2], 0.5, text, text)
    assert torch.allclose(pair[0].eps, pair[1].eps, atol=1e-5), "both prompts see it"
    with torch.no_grad():
        plain = predictor.predict(x[:2], 0.5, text)
    assert not torch.allclose(plain.eps, pair[0].eps, atol=1e-3)


def test_tokens_lie_as_the_masks_cells_do():
    """A change of one latent cell changes the one token whose mask cell holds it."""
    predictor, text = predictor_of("schnell"), examples_of("schnell").texts["p"]
    seen, x = [], torch.zeros(1, 16, 6, 10)
    predictor.network.x_embedder.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    for row, column in ((0, 0), (3, 9), (5, 4)):
        moved = x.clone()
        moved[0, :, row, column] = 1
        with torch.no_grad():
            predictor.predict(moved, 0.5, text)
        (token,) = seen.pop().any(-1).nonzero().flatten().tolist()
        mask = torch.zeros(6, 10)
        mask[row, column] = 1
        assert F.avg_pool2d(mask[None], 2).flatten().nonzero().item() == token


def test_flow_is_trained_at_all_levels_alike():
    timesteps = list(range(0, 1000, 7)) + [999]
    times = training_times("flow", timesteps)
    levels = FlowSchedule().alpha_sigma(times)[1]
    wanted = (torch.tensor(timesteps) + 1) / 1000
    least = FlowSchedule().alpha_sigma(0.0)[1]
    torch.testing.assert_close(levels.float(), wanted.clamp_min(float(least)), rtol=1e-4, atol=1e-5)
    assert float(times[-1]) == 1.0, "pure noise, which sampling starts from"
    assert training_times("eps", [0, 500, 999]).tolist() == pytest.approx([0.0, 0.5, 0.999])


def paper_by_hand(family, attended, settings):
    """Both samples' losses of the paper's quantity: a softmax over text and image keys, averaged over tokens, heads and
    layers to one map per phrase; KL(map || mask) and Cover, summed over the phrases."""
    words, side, losses = SHAPES[family][0], SIDE // 2, []
    layers = [(q, k) for q, k in attended if q.shape[2] == words + side * side]
    for row, mask in enumerate(MASKS):
        m = F.avg_pool2d(mask.double()[None], len(mask) // side).flatten()
        total = 0.0
        for tokens in TOKENS.values():
            at = [side * side + t for t in tokens] if family == "sd3" else list(tokens)
            image = slice(0, side * side) if family == "sd3" else slice(words, None)
            maps = [
                (q[row] @ k[row].mT / math.sqrt(q.shape[-1])).softmax(-1)[:, image, at].mean((0, 2)) for q, k in layers
            ]
            a = sum(maps) / len(maps)
            target = (m / m.sum() + 1e-6) / (1 + 1e-6 * len(m))
            share = (a / 0.1).softmax(0)
            bce = (F.softplus(2.0 * a) - m * 2.0 * a).mean()
            total += float(0.1 * (share * (share.log() - target.log())).sum() + 0.2 * bce)
        losses.append(total)
    return losses


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_papers_own_quantity(family, attended):
    settings = replace(SETTINGS, **PLAIN, preset="paper")
    with Training(family, settings) as training, torch.no_grad():
        draws = training.draws()
        with training.trainer._around(draws):
            training.trainer._losses(draws)
            found = training.trainer._attention_losses(draws).tolist()
    assert found == pytest.approx(paper_by_hand(family, attended, settings), rel=1e-4)
