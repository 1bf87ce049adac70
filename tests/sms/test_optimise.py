"""The SMS loop: one iteration against a float64 transcription, gates against separate passes, and what it promises."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from sms_networks import autoencoder_kl, random, sms_predictor, unet

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.sms.fake import NAME, init_fake
from regionstyle.nodes.sms.objective import relevance_map
from regionstyle.nodes.sms.optimise import BaseModel, Prompts, StyleMatcher
from regionstyle.nodes.sms.presets import PAPER, REFERENCE
from regionstyle.nodes.sms.roles import Role, gates_of, predict_roles
from regionstyle.nodes.sms.schedule import style_weight
from regionstyle.nodes.sms.score import StyleScore
from regionstyle.nodes.sms.settings import SmsSettings
from regionstyle.nodes.sms.stylize import _encoded, has_mask, scaled_gates
from regionstyle.nodes.tinyworld.networks import scheduler

SIZE = (8, 12)


@pytest.fixture
def predictor():
    return sms_predictor()


def matcher(predictor, source, preset=REFERENCE, mask=None, style=0.8, **settings):
    prompts = Prompts.of(predictor, ["a red star"], "mosaic", preset)
    for parameter in predictor.experts.parameters(NAME):
        parameter.requires_grad_(True)
    options = SmsSettings(preset, **{"iterations": 20, "seed": 5, **settings})
    return StyleMatcher(
        predictor, source, prompts, {"style": style}, list(predictor.experts.parameters(NAME)), options, mask
    )


def test_one_batch_of_roles_equals_separate_passes(predictor):
    """Networks, experts and gates in float32: the batched predictors equal three passes to 1e-5."""
    network = predictor.network.float()
    predictor.experts.weights.float()
    for parameter in predictor.experts.parameters(NAME):
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)) / 10)
    result, source = random(2, 4, *SIZE).float(), random(2, 4, *SIZE, seed=1).float()
    times = torch.tensor([0.1, 0.4])
    texts = predictor.encode_text(["a red star"]), predictor.encode_text([""])
    roles = [Role(who, text, who == "plain") for who in ("style", "fake", "plain") for text in texts]
    with torch.no_grad():
        made = predict_roles(predictor, roles, result, source, times, {"style": 0.8})
        for role, eps in zip(roles, made, strict=True):
            gates = Gates({"style": {"style": 0.8}, "fake": {NAME: 1.0}, "plain": {}}[role.who])
            alone = predictor.predict(source if role.source else result, times, role.text, gates).eps
            torch.testing.assert_close(eps, alone, rtol=0, atol=1e-5)
    assert network is predictor.network


def test_texts_of_different_lengths_are_predicted_apart(predictor):
    """As in ComfyUI, where a caption of over 77 tokens has 154 beside the empty prompt's 77."""
    short = predictor.encode_text(["a red star"])
    long = replace(
        short, states=torch.cat([short.states, short.states.flip(1)], 1), ids=[short.ids[0] * 2],
        pieces=[short.pieces[0] * 2], valid=short.valid.repeat(1, 2),
    )  # fmt: skip
    latent, times = random(2, 4, *SIZE), torch.tensor([0.1, 0.4])
    roles = [Role("style", long), Role("style", short), Role("fake", long), Role("plain", short, source=True)]
    with torch.no_grad():
        made = predict_roles(predictor, roles, latent, latent / 2, times, {"style": 0.8})
        for role, eps in zip(roles, made, strict=True):
            (alone,) = predict_roles(predictor, [role], latent, latent / 2, times, {"style": 0.8})
            torch.testing.assert_close(eps, alone, rtol=0, atol=1e-9)


def test_without_guidance_the_empty_prompt_is_not_asked(predictor, monkeypatch):
    """A guidance of 1 means the prompted predictions alone; just beside it, both prompts are asked."""
    latent, counted, moved = random(2, 4, *SIZE), [], []
    plain = type(predictor).predict

    def predict(self, x, *args, **kwargs):
        counted.append(len(x))
        return plain(self, x, *args, **kwargs)

    monkeypatch.setattr(type(predictor), "predict", predict)
    for guidance in (1.0, 1.0 + 1e-9):
        run = matcher(predictor, latent, guidance=guidance)
        losses = run._score.losses(latent * 0.9, latent, *run._draw("narrowing"))
        moved.append(losses)
    assert counted == [2 * 4, 2 * 6]
    for name in ("style", "content", "movement"):
        torch.testing.assert_close(getattr(moved[0], name), getattr(moved[1], name), rtol=1e-6, atol=0)


def test_what_holds_the_content(predictor):
    """The latent's own distance, and a bound that does not follow t, beside the paper's spectrum."""
    latent, source = random(2, 4, *SIZE), random(2, 4, *SIZE, seed=1)
    times, noise = torch.tensor([101.0, 251.0], dtype=torch.float64), random(2, 4, *SIZE, seed=2)

    def held(times, **chosen):
        return matcher(predictor, source, balance=1.0, **chosen)._score.losses(latent, source, times, noise).content

    plain = held(times, content="latent")
    torch.testing.assert_close(plain, (latent - source).square().flatten(1).mean(1))
    fixed = held(times, content="fixed cutoff")
    torch.testing.assert_close(fixed, held(torch.full_like(times, 250.0)))
    assert bool((held(times) != fixed)[0])
    with pytest.raises(RegionStyleError, match="content.*'pixels'.*spectrum"):
        SmsSettings(content="pixels")


def test_strengths_multiply_and_masks_stay():
    mask = torch.rand(1, 4, 4)
    made = scaled_gates({"a": 0.5, "b": torch.tensor([1.0, 0.5]), "c": mask, "d": RegionGate(mask, 0.5)}, 3.0)
    assert made["a"] == 1.5
    assert made["b"].tolist() == [3.0, 1.5]
    assert [made[name].strength for name in "cd"] == [3.0, 1.5]
    assert all(torch.equal(made[name].mask, mask) for name in "cd")
    assert [has_mask(gate) for gate in made.values()] == [False, False, True, True]


def abar(predictor, t):
    """alpha-bar of Stable Diffusion at an integer timestep, or between two as the table reads it."""
    alpha, sigma = predictor.alpha_sigma(torch.tensor(t / 1000, dtype=torch.float64))
    return float(alpha**2)


def transcribed(predictor, preset, source, settings):
    """Two iterations in plain float64, straight from the formulas, with separate passes for every prediction."""
    texts = Prompts.of(predictor, ["a red star"], "mosaic", preset)
    stack, network = predictor.experts, predictor.network
    generator = torch.Generator().manual_seed(settings.seed)
    latent, total = source.clone(), settings.iterations
    first, second = torch.zeros_like(latent), torch.zeros_like(latent)
    fake = list(stack.parameters(NAME))
    fake_state = [(torch.zeros_like(p), torch.zeros_like(p)) for p in fake]

    def eps(x, t, text, gates):
        with torch.no_grad():
            return predictor.predict(x, t / 1000, text, Gates(gates)).eps

    def draw(upper):
        if preset.times == "grid":
            end = max(int(250 * upper), 11)
            return 2 * int(torch.randint(10, end, (1,), generator=generator)) + 1
        return 20 + float(torch.rand(1, generator=generator, dtype=torch.float64)) * (500 * upper - 20)

    for i in range(2):
        t = draw(1 - i / total)
        noise = torch.randn(source.shape, generator=generator).double()
        a = abar(predictor, t)
        z, z_source = (a**0.5 * v + (1 - a) ** 0.5 * noise for v in (latent, source))
        guided = {}
        for name, gates in (("style", {"style": 0.8}), ("fake", {NAME: 1.0})):
            empty = eps(z, t, texts.empty, gates)
            guided[name] = empty + 4.5 * (eps(z, t, texts.style, gates) - empty)
        if preset is REFERENCE:
            beta = 1 - a / abar(predictor, t - 1)
            w = (1 - abar(predictor, t - 2)) / (1 - a) * beta
        else:
            w = 1 - a
        gradient = w * (guided["style"] - guided["fake"])
        difference = eps(z_source, t, texts.edit, {}) - eps(z_source, t, texts.empty, {})
        size = difference.mean(1).abs() if preset is REFERENCE else difference.abs().mean(1)
        relevance = ((size - size.min()) / (size.max() - size.min()))[:, None]
        h, w_ = SIZE
        limit = int(t / 500 * (h + w_ - 2))
        rows = [[math.sqrt((1 if u == 0 else 2) / h) * math.cos(math.pi * (y + 0.5) * u / h) for y in range(h)]
                for u in range(h)]  # fmt: skip
        columns = [[math.sqrt((1 if v == 0 else 2) / w_) * math.cos(math.pi * (x + 0.5) * v / w_) for x in range(w_)]
                   for v in range(w_)]  # fmt: skip
        c, d = torch.tensor(rows, dtype=torch.float64), torch.tensor(columns, dtype=torch.float64)
        spectrum = c @ (latent - source) @ d.T
        keep = (torch.arange(h)[:, None] + torch.arange(w_) <= limit).double()
        slope = spectrum.sign() * keep if preset is REFERENCE else 2 * spectrum * keep
        low = c.T @ slope @ d / latent.numel() * 5e-4
        step = relevance * gradient / latent.numel() + low
        # a rise of 4 iterations whose first move is at 5 times the published rate of i / 100
        rate = 0.1 * (i / 4) ** math.log(20, 4)
        latent = latent * (1 - rate * 0.01)
        first, second = 0.9 * first + 0.1 * step, 0.999 * second + 0.001 * step**2
        latent = latent - rate * (first / (1 - 0.9 ** (i + 1))) / ((second / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8)
        t = draw(1)
        noise = torch.randn(source.shape, generator=generator).double()
        a = abar(predictor, t)
        with stack.using(Gates({NAME: 1.0})):
            made = predictor.predict(a**0.5 * latent + (1 - a) ** 0.5 * noise, t / 1000, texts.style).eps
        weight = a if preset is REFERENCE else 1.0
        loss = ((weight * made - weight * noise) ** 2).mean()
        for p, g, (m, v) in zip(fake, torch.autograd.grad(loss, fake), fake_state, strict=True):
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g**2)
            p.data -= 1e-3 * (m / (1 - 0.9 ** (i + 1))) / ((v / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8)
    assert network is predictor.network
    return latent, [p.detach().clone() for p in fake]


def test_the_fresh_fake_expert_is_pefts_default(predictor):
    """Uniform within 1 / sqrt(inputs), the whole width of it, and up zero: the published code's LoraConfig."""
    for path, layer in init_fake(predictor.network, 3).layers.items():
        bound = predictor.network.get_submodule(path).in_features ** -0.5
        peft = torch.nn.Linear(predictor.network.get_submodule(path).in_features, 8, bias=False)
        torch.nn.init.kaiming_uniform_(peft.weight, a=math.sqrt(5))
        assert 0.85 * bound < float(layer.down.abs().max()) <= bound, path
        assert 0.7 < float(layer.down.std() / peft.weight.detach().std()) < 1.4
        assert float(layer.up.abs().max()) == 0
        assert layer.scale == 32 / 8


def test_a_base_network_of_its_own(predictor):
    """Style on one network, real and fake on another: the same numbers as apart, and as on one network if it is one."""
    latent, source = random(2, 4, *SIZE), random(2, 4, *SIZE, seed=1)
    times, noise = torch.tensor([101.0, 251.0], dtype=torch.float64), random(2, 4, *SIZE, seed=2)
    base = plain_base(seed=0)
    for ours, theirs in zip(predictor.experts.parameters(NAME), base.experts.parameters(NAME), strict=True):
        torch.testing.assert_close(ours, theirs)
    texts = Prompts.of(predictor, ["a red star"], "mosaic", REFERENCE)
    settings = SmsSettings(iterations=20)
    one = StyleScore(predictor, texts, {"style": 0.8}, settings)
    same = StyleScore(predictor, texts, {"style": 0.8}, settings, BaseModel(base, texts))
    other = BaseModel(plain_base(seed=1), Prompts.of(base, ["a red star"], "mosaic", REFERENCE))
    apart = StyleScore(predictor, texts, {"style": 0.8}, settings, other)
    weight = style_weight(REFERENCE, predictor.alpha_sigma, times)
    pulls = [score._gradient_and_relevance(latent, source, times, noise, weight) for score in (one, same, apart)]
    for got, wanted in zip(pulls[1], pulls[0], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(*(score.fake_error(latent, times, noise) for score in (same, one)))
    assert not torch.allclose(apart.fake_error(latent, times, noise), one.fake_error(latent, times, noise))

    def eps(model, clean, text, gates):
        with torch.no_grad():
            return model.predict(model.add_noise(clean, noise, times / 1000), times / 1000, text, Gates(gates)).eps

    def guided(model, gates):
        empty = eps(model, latent, texts.empty, gates)
        return empty + 4.5 * (eps(model, latent, texts.style, gates) - empty)

    wanted = weight.reshape(-1, 1, 1, 1) * (guided(predictor, {"style": 0.8}) - guided(other.predictor, {NAME: 1.0}))
    torch.testing.assert_close(pulls[2][0], wanted, rtol=0, atol=1e-9)
    change = [eps(other.predictor, source, text, {}) for text in (texts.edit, texts.empty)]
    torch.testing.assert_close(pulls[2][1], relevance_map(*change, "mean_first"), rtol=0, atol=1e-9)


def plain_base(seed):
    """Another network with the fake expert alone on it."""
    torch.manual_seed(seed)
    base = sms_predictor()
    if seed:
        for parameter in base.network.parameters():
            parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) / 50
    base.experts.detach()
    base.experts = ExpertStack(base.network, [init_fake(base.network, 3)])
    base.experts.weights.double()
    base.experts.attach()
    return base


def test_a_run_with_a_base_trains_its_fake_and_moves_the_latent(predictor):
    base, source = plain_base(seed=1), random(1, 4, *SIZE)
    texts = Prompts.of(predictor, ["a red star"], "mosaic", REFERENCE)
    fake = [parameter.requires_grad_(True) for parameter in base.experts.parameters(NAME)]
    idle = [parameter.detach().clone() for parameter in predictor.experts.parameters(NAME)]
    before = [parameter.detach().clone() for parameter in fake]
    settings = SmsSettings(iterations=20)
    run = StyleMatcher(predictor, source, texts, {"style": 0.8}, fake, settings, base=BaseModel(base, texts))
    run.step()
    run.step()
    assert not torch.equal(run.latent, source)
    assert any(not torch.equal(a, b) for a, b in zip(fake, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(predictor.experts.parameters(NAME), idle, strict=True))


def test_a_base_with_other_latents_is_refused(predictor):
    base = copy.copy(predictor)
    base.latent_channels = 16
    texts = Prompts.of(predictor, [""], "mosaic", REFERENCE)
    with pytest.raises(RegionStyleError, match=r"base.*16 channels.*4 and"):
        StyleScore(predictor, texts, {"style": 0.8}, SmsSettings(), BaseModel(base, texts))


def test_a_sampled_start_is_the_mode_plus_noise_of_the_autoencoders_width(predictor):
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(RegionStyleError, match="vae.*AutoencoderTiny.*distribution"):
        predictor.encode_sample(images, torch.Generator())
    vae = predictor.vae = autoencoder_kl()
    draw = lambda seed: predictor.encode_sample(images, torch.Generator().manual_seed(seed))  # noqa: E731
    mode = predictor.encode(images)
    scale = vae.encode((images * 2 - 1).to(vae.dtype)).latent_dist.std.to(mode) * vae.config.scaling_factor
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    z = torch.stack([(draw(seed) - mode) / scale for seed in range(8)])
    assert abs(float(z.mean())) < 0.05
    assert 0.95 < float(z.std()) < 1.05
    assert torch.equal(_encoded(predictor, images, SmsSettings()), mode)
    assert torch.equal(_encoded(predictor, images, SmsSettings(start="sample", seed=1)), draw(1))
    with pytest.raises(RegionStyleError, match="start.*'mean'.*mode"):
        SmsSettings(start="mean")


@pytest.mark.parametrize(("preset", "caption", "wanted"), [
    (REFERENCE, "a red star", "mosaic, a red star"), (PAPER, "a red star", "a red star, mosaic"),
    (REFERENCE, "", "mosaic"), (PAPER, "", "mosaic"),
])  # fmt: skip
def test_both_presets_read_the_styles_words(predictor, preset, caption, wanted):
    prompts = Prompts.of(predictor, [caption], "mosaic", preset)
    assert torch.equal(prompts.style.states, predictor.encode_text([wanted]).states)
    assert torch.equal(prompts.edit.states, predictor.encode_text(["Turn it into mosaic"]).states)


@pytest.mark.parametrize("preset", [REFERENCE, PAPER], ids=lambda p: p.name)
def test_iterations_equal_a_float64_transcription(predictor, preset):
    source = random(1, 4, *SIZE)
    run = matcher(predictor, source, preset)
    start = [p.detach().clone() for p in predictor.experts.parameters(NAME)]
    run.step()
    run.step()
    made, fake = run.latent.clone(), [p.detach().clone() for p in predictor.experts.parameters(NAME)]
    for parameter, value in zip(predictor.experts.parameters(NAME), start, strict=True):
        parameter.data.copy_(value)
    wanted, wanted_fake = transcribed(predictor, preset, source, run.settings)
    assert float((wanted - source).abs().max()) > 0.003, "nothing moved, so nothing was compared"
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-9)
    for a, b in zip(fake, wanted_fake, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_batch_runs_each_picture_with_its_own_time(predictor):
    run = matcher(predictor, random(3, 4, *SIZE))
    times, noise = run._draw("narrowing")
    assert times.unique().numel() == 3
    assert not torch.equal(noise[0], noise[1])
    run.step()
    assert run.latent.shape == (3, 4, *SIZE)


def test_outside_the_mask_the_latent_is_the_sources_own(predictor):
    source, mask = random(1, 4, *SIZE), torch.zeros(1, 1, *SIZE)
    mask[..., 2:5, 3:9] = 1
    run = matcher(predictor, source, mask=mask)
    for _ in range(4):
        run.step()
    outside = (mask == 0).expand_as(source)
    assert torch.equal(run.latent[outside], source[outside])
    assert bool((run.latent != source)[~outside].all())


def test_the_network_is_as_before(predictor):
    before = {name: value.clone() for name, value in predictor.network.state_dict().items()}
    run = matcher(predictor, random(1, 4, *SIZE))
    run.step()
    x, text = random(1, 4, *SIZE, seed=8), predictor.encode_text(["a red star"])
    predictor.experts.detach()
    with torch.no_grad():
        made = predictor.predict(x, 0.3, text).eps
    assert all(torch.equal(value, before[name]) for name, value in predictor.network.state_dict().items())
    fresh = copy.copy(predictor)
    fresh.__init__(unet(), predictor.vae, predictor.text_encoder, predictor.tokenizer, scheduler(), predictor.host)
    with torch.no_grad():
        assert torch.equal(made, fresh.predict(x, 0.3, text).eps)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["forward", "backward"])
def test_where_memory_is_short_the_result_is_the_same(when):
    """A device with room for one picture; forward passes and training steps are halved until they fit."""
    runs, ran = [], []
    for room in (99, 1):
        predictor = sms_predictor()

        def full(*_):
            raise getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)("CUDA out of memory")

        def after(network, arguments, output, room=room):
            count, output = len(arguments[0]), output.sample
            if count > room and when == "backward" and output.requires_grad:
                output.register_hook(full)
            elif count > room and when == "forward":
                full()
            ran.append((room, count, output.requires_grad))

        predictor.network.register_forward_hook(after)
        run = matcher(predictor, random(3, 4, *SIZE))
        run.step()
        run.step()
        runs.append((run, [p.detach() for p in predictor.experts.parameters(NAME)]))
    (whole, weights), (parts, other) = runs
    assert (99, 18, False) in ran
    assert (99, 3, True) in ran
    assert {count for room, count, grad in ran if room == 1 and grad} == ({1, 3} if when == "backward" else {1})
    torch.testing.assert_close(parts.latent, whole.latent, rtol=0, atol=1e-9)
    torch.testing.assert_close(parts.history.fake, whole.history.fake)
    for a, b in zip(other, weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_same_seed_same_result_and_settling(predictor):
    source, runs = random(1, 4, *SIZE), []
    start = [p.detach().clone() for p in predictor.experts.parameters(NAME)]
    for seed in (1, 1, 2):
        for parameter, value in zip(predictor.experts.parameters(NAME), start, strict=True):
            parameter.data.copy_(value)
        run = matcher(predictor, source, seed=seed, tolerance=100, window=2)
        assert not run.settled
        run.step()
        run.step()
        assert run.settled
        runs.append(run.latent.clone())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_region_gate_of_the_style_acts_in_its_rows_only(predictor):
    """A mask of ones at 0.8 is the number 0.8, for the style's predictions alone; another mask is something else."""
    start = [p.detach().clone() for p in predictor.experts.parameters(NAME)]
    half = torch.zeros(1, 16, 24)
    half[..., :12] = 1
    latents = []
    for style in (0.8, RegionGate(torch.ones(1, 16, 24), 0.8), RegionGate(half, 0.8)):
        for parameter, value in zip(predictor.experts.parameters(NAME), start, strict=True):
            parameter.data.copy_(value)
        run = matcher(predictor, random(2, 4, *SIZE), style=style)
        run.step()
        run.step()
        latents.append(run.latent.clone())
    number, ones, other = latents
    torch.testing.assert_close(ones, number, rtol=0, atol=1e-7)
    assert (other - number).abs().max() > 1e-4


def test_wrong_input_is_named(predictor):
    with pytest.raises(RegionStyleError, match="iterations"):
        SmsSettings(iterations=1)
    with pytest.raises(RegionStyleError, match="gate.*3 entries.*1 or 2"):
        gates_of(["style", "fake"], 2, {"style": torch.ones(3)})
    with pytest.raises(RegionStyleError, match="gate.*3 entries.*1 or 2"):
        gates_of(["style", "fake"], 2, {"style": RegionGate(torch.ones(3, 4, 4))})
    with pytest.raises(RegionStyleError, match="timesteps"):
        SmsSettings(lowest=600, highest=500)
    with pytest.raises(RegionStyleError, match="mask"):
        matcher(predictor, random(1, 4, *SIZE), mask=torch.ones(1, 1, 3, 3))
    with pytest.raises(RegionStyleError, match="style expert"):
        StyleMatcher(predictor, random(1, 4, *SIZE), None, {}, [], SmsSettings())
