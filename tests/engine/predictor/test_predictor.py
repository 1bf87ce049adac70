"""The noise predictor's arithmetic against closed forms, and the diffusers implementation on tiny random networks."""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.engine.predictor.schedule import FlowSchedule, from_denoised, from_eps, from_v


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def schedule(prediction_type="epsilon", **options):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type, **options
    )


class Exact(nn.Module):
    """A network that knows x0 and gives its noise, or its velocity."""

    dtype = torch.float32
    down_blocks = up_blocks = ()  # a U-Net by its look

    def __init__(self, x0, scheduler):
        super().__init__()
        self.x0, self.scheduler, self.steps = x0, scheduler, []
        self.config = Config(in_channels=4, out_channels=4, sample_size=16, cross_attention_dim=8)

    def forward(self, x, steps, encoder_hidden_states):
        self.steps.append(steps.tolist())
        squared = self.scheduler.alphas_cumprod[steps].reshape(-1, 1, 1, 1)
        eps = (x - squared.sqrt() * self.x0) / (1 - squared).sqrt()
        v = squared.sqrt() * eps - (1 - squared).sqrt() * self.x0
        return SimpleNamespace(sample=eps if self.scheduler.config.prediction_type == "epsilon" else v)


class Config(SimpleNamespace):
    def get(self, name):
        return getattr(self, name, None)


class Codec(nn.Module):
    """An autoencoder whose latent is the picture's every eighth pixel, plus one, with a channel more."""

    dtype, device = torch.float32, torch.device("cpu")
    config = Config(block_out_channels=(1, 2, 3, 4), scaling_factor=0.5, shift_factor=0.25)

    def encode(self, images):
        latents = torch.cat([images, images[:, :1]], 1)[..., ::8, ::8] + 1
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents):
        return SimpleNamespace(sample=(latents[:, :3] - 1).repeat_interleave(8, -1).repeat_interleave(8, -2))


def exact_predictor(x0, prediction_type="epsilon", **options):
    scheduler = schedule(prediction_type, **options)
    return DiffusersPredictor(Exact(x0, scheduler), Codec(), None, None, scheduler, LocalHost("cpu"))


def blank_text(count=1):
    return Text(torch.zeros(count, 77, 8), None, [[0] * 77] * count, [[""] * 77] * count, torch.ones(count, 77).bool())


@pytest.fixture(scope="module")
def tiny():
    """The tiny world's classes with random weights, and a CLIP tokenizer."""
    from regionstyle.nodes.tinyworld import networks, tokenizer

    torch.manual_seed(0)
    words = tokenizer.load_tokenizer()
    tower = networks.new_text_tower(len(words), words.bos_token_id, words.eos_token_id)
    parts = networks.new_unet(), networks.new_vae(), tower
    for part in parts:
        part.eval().requires_grad_(False)
    return DiffusersPredictor(*parts, words, networks.scheduler(), LocalHost("cpu"))


@pytest.mark.parametrize("batch", [None, 3])
def test_conversions_agree(batch):
    """eps, v and x0 made from one (x0, eps) all give it back."""
    angle = torch.tensor(0.7) if batch is None else torch.tensor([0.2, 0.7, 1.4])
    alpha, sigma = angle.cos(), angle.sin()
    x0, eps = noise(3, 4, 5, 6), noise(3, 4, 5, 6, seed=1)
    wide = (lambda v: v) if batch is None else (lambda v: v.reshape(-1, 1, 1, 1))
    x = wide(alpha) * x0 + wide(sigma) * eps
    v = wide(alpha) * eps - wide(sigma) * x0
    for result in (from_eps(x, eps, alpha, sigma), from_v(x, v, alpha, sigma), from_denoised(x, x0, alpha, sigma)):
        assert (result.eps - eps).abs().max() < 1e-5
        assert (result.denoised - x0).abs().max() < 1e-5


def test_ends_stay_finite():
    """At pure noise x is the noise, without noise x is the picture; what x says nothing about is 0 or the network's."""
    x, zero, one = noise(1, 4, 2, 2), torch.tensor(0.0), torch.tensor(1.0)
    nothing = torch.zeros_like(x)
    for result, eps, denoised in (
        (from_eps(x, x, zero, one), x, nothing),
        (from_denoised(x, x, one, zero), nothing, x),
        (from_v(x, x, zero, one), x, -x),
    ):
        assert torch.equal(result.eps, eps)
        assert torch.equal(result.denoised, denoised)


@pytest.mark.parametrize("t", [1.5, -0.1, float("nan"), 500, torch.tensor([0.5, 1.2])])
def test_times_outside_0_to_1_are_refused(t):
    predictor = exact_predictor(noise(2, 4, 8, 8), "epsilon")
    for call in (predictor.alpha_sigma, FlowSchedule().alpha_sigma):
        with pytest.raises(RegionStyleError, match=r"t: got .* expected 0 \(clean\) to 1 \(noise\)"):
            call(t)
    with pytest.raises(RegionStyleError, match="t: got"):
        predictor.predict(noise(2, 4, 8, 8), t, blank_text())


def test_there_is_one_time_for_all_images_or_one_for_each():
    x0 = noise(2, 4, 8, 8)
    predictor = exact_predictor(x0[:1], "epsilon")
    for wrong in (torch.full((3,), 0.5), torch.full((2, 1), 0.5)):
        for call in (predictor.predict, lambda x, t, text: predictor.predict_pair(x, t, text, text)):
            with pytest.raises(RegionStyleError, match=r"t: got shape .* expected a number or \[2\]"):
                call(x0, wrong, blank_text())
    one = predictor.predict_pair(x0, torch.tensor([0.5]), blank_text(), blank_text())
    assert torch.equal(one[1].eps, predictor.predict_pair(x0, 0.5, blank_text(), blank_text())[1].eps)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("step", [0, 1, 250, 999])
def test_predict_gives_back_noise_and_truth(prediction_type, step):
    x0, eps = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    predictor = exact_predictor(x0, prediction_type)
    result = predictor.predict(predictor.add_noise(x0, eps, step / 1000), step / 1000, blank_text())
    assert predictor.unet.steps == [[step, step]]
    assert (result.eps - eps).abs().max() < 1e-3
    assert (result.denoised - x0).abs().max() < 1e-3


def test_one_time_per_image():
    x0, eps = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    predictor = exact_predictor(x0)
    t = torch.tensor([0.1, 0.6])
    x = predictor.add_noise(x0, eps, t)
    assert (x[1] - predictor.add_noise(x0[1:], eps[1:], 0.6)[0]).abs().max() < 1e-6
    result = predictor.predict(x, t, blank_text(2))
    assert predictor.unet.steps == [[100, 600]]
    assert (result.eps - eps).abs().max() < 1e-4


def test_schedule_is_the_scheduler_s_at_its_steps_and_monotone_between():
    predictor = exact_predictor(noise(1, 4, 8, 8))
    squared = schedule().alphas_cumprod
    for step in (0, 1, 500, 999):
        alpha, sigma = predictor.alpha_sigma(step / 1000)
        assert alpha.shape == ()
        assert float(alpha) == pytest.approx(math.sqrt(squared[step]), rel=1e-5)
        assert float(sigma) == pytest.approx(math.sqrt(1 - squared[step]), rel=1e-5)
    alpha, sigma = predictor.alpha_sigma(torch.linspace(0, 0.999, 3777))
    assert (sigma.diff() > 0).all()
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-6
    assert predictor.alpha_sigma(1.0) == predictor.alpha_sigma(0.999)


def test_between_steps_the_log_ratio_is_linear():
    predictor = exact_predictor(noise(1, 4, 8, 8))

    def log_ratio(t):
        alpha, sigma = predictor.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        return float((sigma / alpha).log())

    assert log_ratio(0.30025) == pytest.approx(0.75 * log_ratio(0.300) + 0.25 * log_ratio(0.301), abs=1e-9)


def test_schedule_that_ends_in_pure_noise():
    x0, eps = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    predictor = exact_predictor(x0, "v_prediction", rescale_betas_zero_snr=True)
    x = predictor.add_noise(x0, eps, 1.0)
    result = predictor.predict(x, 1.0, blank_text())
    assert result.eps.isfinite().all()
    assert (result.denoised - x0).abs().max() < 1e-2


def test_autoencoder_scaling():
    predictor, images = exact_predictor(noise(1, 4, 8, 8)), torch.rand(2, 3, 16, 24)
    latents = predictor.encode(images)
    assert predictor.factor == 8
    assert torch.allclose(latents[:, :3], ((images[..., ::8, ::8] * 2 - 1) + 1 - 0.25) * 0.5)
    decoded = predictor.decode(latents)
    assert torch.allclose(decoded[..., ::8, ::8], images[..., ::8, ::8], atol=1e-6)
    assert predictor.decode(latents * 100).max() == 1


def test_gates_need_experts_and_act_for_one_call():
    predictor = exact_predictor(noise(1, 4, 8, 8))
    gate, log = Gates({"oil": 1.0}), []
    with pytest.raises(RegionStyleError, match="oil"):
        predictor.predict(noise(1, 4, 8, 8), 0.5, blank_text(), gate)

    @contextmanager
    def using(gates):
        log.append((gates, len(predictor.unet.steps)))
        yield
        log.append(len(predictor.unet.steps))

    predictor.experts = SimpleNamespace(using=using, attached=False)
    with pytest.raises(RegionStyleError, match=r"oil.*attach\(\)"):
        predictor.predict(noise(1, 4, 8, 8), 0.5, blank_text(), gate)
    predictor.experts.attached = True
    predictor.predict(noise(1, 4, 8, 8), 0.5, blank_text(), gate)
    predictor.predict(noise(1, 4, 8, 8), 0.5, blank_text())
    assert log == [(gate, 0), 1]


def test_attached_experts_are_on_the_device_while_the_networks_are(tiny):
    """Otherwise every layer would copy its expert's weights to the device in every forward pass."""
    log = []

    class Host(LocalHost):
        @contextmanager
        def on_device(self, module):
            log.append(module)
            try:
                with super().on_device(module):
                    yield
            finally:
                log.append("back")

    stack = SimpleNamespace(weights=nn.ModuleList([nn.Linear(2, 2)]))
    parts = (tiny.unet, tiny.vae, tiny.text_encoder, tiny.tokenizer, schedule())
    with DiffusersPredictor(*parts, Host("cpu"), stack).loaded():
        assert log == [stack.weights]
    assert log == [stack.weights, "back"]
    with DiffusersPredictor(*parts, Host("cpu")).loaded():
        assert len(log) == 2


def test_pair_equals_two_calls(tiny):
    x = noise(2, 4, 16, 16)
    text, negative = tiny.encode_text(["a red circle"]), tiny.encode_text(["a blue square"])
    pair = tiny.predict_pair(x, 0.4, text, negative)
    for result, prompt in zip(pair, (text, negative), strict=True):
        assert torch.allclose(result.eps, tiny.predict(x, 0.4, prompt).eps, atol=1e-5)
    assert not torch.allclose(pair[0].eps, pair[1].eps, atol=1e-5)


def test_pair_repeats_times():
    x0 = noise(2, 4, 8, 8)
    predictor = exact_predictor(x0.repeat(2, 1, 1, 1))
    predictor.predict_pair(x0, torch.tensor([0.1, 0.2]), blank_text(), blank_text())
    assert predictor.unet.steps == [[100, 200, 100, 200]]


def test_text_of_a_real_tokenizer(tiny):
    text = tiny.encode_text(["a red circle", "a circle"])
    assert text.states.shape == (2, 77, 128)
    assert text.pooled.shape == (2, 128)
    assert text.pieces[0][:5] == ["<|startoftext|>", "a</w>", "red</w>", "circle</w>", "<|endoftext|>"]
    assert text.valid.sum(1).tolist() == [3, 2]
    assert text.valid[0, 1:4].all()
    ids = tiny.tokenizer(["a red circle"], padding="max_length", return_tensors="pt").input_ids
    assert text.ids[0] == ids[0].tolist()
    assert torch.equal(text.states[0], tiny.text_encoder(ids).last_hidden_state[0])


def test_seventy_five_tokens_and_no_more(tiny):
    assert tiny.encode_text(["red " * 75]).valid.sum() == 75
    with pytest.raises(RegionStyleError, match="76 tokens.*at most 75"):
        tiny.encode_text(["a cat", "red " * 76])


def test_round_trip_shapes_and_native_size(tiny):
    assert (tiny.native_size, tiny.factor, tiny.latent_channels) == (128, 8, 4)
    assert tiny.encode(torch.rand(1, 3, 64, 128)).shape == (1, 4, 8, 16)
    assert tiny.decode(noise(1, 4, 8, 16)).shape == (1, 3, 64, 128)
    with pytest.raises(RegionStyleError, match="multiples of 8"):
        tiny.encode(torch.rand(1, 3, 60, 128))
    with pytest.raises(RegionStyleError, match="latents"):
        tiny.decode(noise(1, 3, 8, 8))


def test_prediction_is_differentiable(tiny):
    x = noise(1, 4, 16, 16).requires_grad_()
    with tiny.loaded(), torch.no_grad(), tiny.gradients():
        result = tiny.predict(x, 0.4, tiny.encode_text(["a red circle"]))
    assert torch.autograd.grad(result.denoised.sum(), x)[0].abs().max() > 0


def test_number_of_prompts_must_fit(tiny):
    with pytest.raises(RegionStyleError, match="2 prompts"):
        tiny.predict(noise(3, 4, 16, 16), 0.5, tiny.encode_text(["a", "a"]))


def test_other_families_are_refused():
    x0 = noise(1, 4, 8, 8)
    with pytest.raises(RegionStyleError, match="'sample'.*Supported"):
        exact_predictor(x0, "sample")
    scheduler = schedule()
    for change in ({"addition_embed_type": "image"}, {"class_embed_type": "projection"}, {"in_channels": 8}):
        unet = Exact(x0, scheduler)
        vars(unet.config).update(change)
        with pytest.raises(RegionStyleError, match="Supported"):
            DiffusersPredictor(unet, Codec(), None, None, scheduler, LocalHost("cpu"))
