"""The learnt gate: its formula, its load-balance term, its gradients, its file, and what it learns from prompts."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from sms_networks import random, style_expert, unet

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import Cancelled, LocalHost
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.router.gates.files import SHIPPED, load_gate, save_gate
from regionstyle.nodes.router.gates.learnt_gate import GateShape, LearntGate, Routing, balance_loss
from regionstyle.nodes.router.gates.training import (
    GateExample,
    encoded,
    examples_of,
    gate_loss,
    prompts_at,
    train_gate,
)
from regionstyle.nodes.router.settings import GateSettings
from regionstyle.nodes.tinyworld.prompts import style_prompts

NAMES = ("mosaic", "neon", "watercolor", "oil paint")
SHAPE = GateShape(text=6, pooled=5, width=8, heads=2, layers=2, top_k=2)


def text(batch=3, words=5, width=6, pooled=5, seed=0) -> Text:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(batch, words, width, generator=generator, dtype=torch.float64)
    valid = torch.zeros(batch, words, dtype=torch.bool)
    for row in range(batch):
        valid[row, 1 : 1 + row] = True  # the first prompt has no word at all
    made = torch.randn(batch, pooled, generator=generator, dtype=torch.float64) if pooled else None
    return Text(states, made, [], [], valid)


def gate_of(shape=SHAPE, names=NAMES, seed=1) -> LearntGate:
    gate = LearntGate(names, shape, seed).double()
    with torch.no_grad():
        for number, parameter in enumerate(gate.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.3)
    return gate


def linear(state, name, vector):
    rows, bias = state[f"{name}.weight"].tolist(), state.get(f"{name}.bias")
    products = [math.fsum(w * x for w, x in zip(row, vector, strict=True)) for row in rows]
    return [p + (0.0 if bias is None else float(bias[at])) for at, p in enumerate(products)]


def normed(state, name, vector):
    mean = math.fsum(vector) / len(vector)
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in vector) / len(vector) + 1e-5)
    scale, shift = state[f"{name}.weight"].tolist(), state[f"{name}.bias"].tolist()
    return [(x - mean) / spread * a + b for x, a, b in zip(vector, scale, shift, strict=True)]


def softmax(values):
    high = max(values)
    powers = [math.exp(value - high) for value in values]
    return [power / math.fsum(powers) for power in powers]


def plain(gate, given, row):
    """The gate as written in the specification, number by number."""
    state, shape = gate.state_dict(), gate.shape
    words = [linear(state, "words", s.tolist()) for s, v in zip(given.states[row], given.valid[row], strict=True) if v]
    query, size = state["query"][0].tolist(), shape.width // shape.heads
    for at in range(shape.layers):
        name = f"reader.{at}"
        own = normed(state, f"{name}.norm_query", query)
        source = [normed(state, f"{name}.norm_words", word) for word in words] + [own]
        q = linear(state, f"{name}.to_q", own)
        keys, values = ([linear(state, f"{name}.to_{part}", s) for s in source] for part in "kv")
        seen = []
        for head in range(shape.heads):
            part = slice(head * size, (head + 1) * size)
            logits = [math.fsum(a * b for a, b in zip(q[part], k[part], strict=True)) / math.sqrt(size) for k in keys]
            share = softmax(logits)
            seen += [math.fsum(s * v[part][i] for s, v in zip(share, values, strict=True)) for i in range(size)]
        query = [a + b for a, b in zip(query, linear(state, f"{name}.to_out", seen), strict=True)]
        up = linear(state, f"{name}.up", normed(state, f"{name}.norm_forward", query))
        up = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in up]
        query = [a + b for a, b in zip(query, linear(state, f"{name}.down", up), strict=True)]
    vector = normed(state, "norm", query)
    if shape.pooled:
        vector = [a + b for a, b in zip(vector, linear(state, "pooled", given.pooled[row].tolist()), strict=True)]
    return softmax(linear(state, "score", vector))


@pytest.mark.parametrize("pooled", [5, 0])
def test_the_gate_equals_its_plain_transcription_in_float64(pooled):
    shape = GateShape(6, pooled, 8, 2, 2, 2)
    gate, given = gate_of(shape), text(pooled=pooled)
    routing = gate(given)
    for row in range(3):
        wanted = plain(gate, given, row)
        assert routing.probabilities[row].tolist() == pytest.approx(wanted, abs=1e-12)
        best = sorted(range(4), key=lambda at: -wanted[at])[:2]
        raw = [p if at in best else 0.0 for at, p in enumerate(wanted)]
        assert routing.weights[row].tolist() == pytest.approx(raw, abs=1e-12)


def test_tokens_that_are_no_words_are_not_read():
    gate, given = gate_of(), text()
    changed = Text(given.states + 9.0 * ~given.valid[..., None], given.pooled, [], [], given.valid)
    torch.testing.assert_close(gate(given).probabilities, gate(changed).probabilities, rtol=0, atol=1e-14)


def test_balance_is_one_when_even_and_the_number_of_experts_when_one_gets_all():
    even = torch.full((4, 4), 0.25)
    assert float(balance_loss(Routing(even, torch.eye(4) * 0.25))) == pytest.approx(1.0)
    one = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(4, 1)
    assert float(balance_loss(Routing(one, one))) == pytest.approx(4.0)
    # E * sum f P by hand: f = (3/4, 1/4), P = (0.65, 0.35).
    p = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.4, 0.6]])
    chosen = p * (p == p.amax(-1, keepdim=True))
    assert float(balance_loss(Routing(p, chosen))) == pytest.approx(2 * (0.75 * 0.65 + 0.25 * 0.35))


def test_balance_raises_the_share_of_the_least_used_expert():
    """One expert gets nearly every example: without the term the others starve, with it they do not."""
    given, targets = text(batch=16, pooled=0, seed=4), torch.tensor([0] * 13 + [1, 2, 3])
    shares = {}
    for balance in (0.0, 2.0):
        gate = gate_of(GateShape(6, width=8, heads=2, top_k=1), seed=3)
        optimiser = torch.optim.SGD(gate.parameters(), 0.1)
        for _ in range(40):
            optimiser.zero_grad()
            gate_loss(gate, given, targets, balance).backward()
            optimiser.step()
        shares[balance] = gate(given).probabilities.mean(0).min().item()
    assert shares[2.0] > 1.5 * shares[0.0], shares


def test_gradients_go_through_the_experts_into_the_gate():
    """Finite differences of a picture's loss, in the gate's own parameters."""
    network = unet().double()
    experts = [style_expert(network), style_expert(network)]
    experts = [type(e)(name, e.layers, e.style) for name, e in zip(NAMES, experts, strict=False)]
    gate = gate_of(GateShape(6, width=8, heads=2, top_k=2), NAMES[:2])
    given = text(batch=1, pooled=0, seed=5)
    given = Text(given.states, None, [], [], torch.ones(1, 5, dtype=torch.bool))
    scale = {NAMES[0]: 1.0, NAMES[1]: -0.5}  # else two equal experts, whose shares sum to 1, give nothing to learn
    x = random(1, 4, 8, 8).double()
    context = random(1, 7, network.config.cross_attention_dim, seed=2).double()
    with ExpertStack(network, experts) as stack:

        def loss():
            weights = gate(given).weights
            gates = Gates({name: weights[:, at] * scale[name] for at, name in enumerate(gate.experts)})
            with stack.using(gates):
                return (network(x, 10, context).sample ** 2).mean()

        loss().backward()
        for parameter in (gate.score.weight, gate.query, gate.words.weight):
            direction = random(*parameter.shape, seed=9).to(parameter)
            wanted = float((parameter.grad * direction).sum())
            start = parameter.detach().clone()
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.copy_(start + step * direction)
                    values.append(float(loss()))
            with torch.no_grad():
                parameter.copy_(start)
            assert abs(wanted) > 1e-12
            assert (values[0] - values[1]) / 2e-5 == pytest.approx(wanted, rel=1e-4)


def test_a_file_keeps_the_gate(tmp_path):
    gate = gate_of().float()
    save_gate(gate, tmp_path / "new" / "gate.safetensors")
    found = load_gate(tmp_path / "new" / "gate.safetensors")
    assert (found.experts, found.shape) == (NAMES, SHAPE)
    assert not any(p.requires_grad for p in found.parameters())
    given = Text(text().states.float(), text().pooled.float(), [], [], text().valid)
    assert torch.equal(found(given).weights, gate(given).weights)


def said(header, **sizes):
    """A header's sizes with others in their place."""
    return json.dumps({**json.loads(header["shape"]), **sizes})


def broken(path, change):
    """A saved gate with other tensors or another header."""
    from safetensors import safe_open

    save_gate(gate_of(), path)
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    state = load_file(path)
    change(state, header)
    save_file(state, path, metadata=header)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s, h: s.pop("score.weight"), "without score.weight"),
        (lambda s, h: s.update(extra=torch.zeros(1)), "with unknown extra"),
        (lambda s, h: s.update({"score.weight": torch.zeros(3, 8)}), r"score.weight \[3, 8\] instead of \[4, 8\]"),
        (lambda s, h: h.update(experts=json.dumps(["a", "b"])), r"score.weight \[4, 8\] instead of \[2, 8\]"),
        (lambda s, h: h.update(experts=json.dumps(["a", "a"])), "different names"),
        (lambda s, h: h.update(experts="not JSON"), "header cannot be read"),
        (lambda s, h: h.update(shape=said(h, layers=1000000)), "layers 1000000 in its header and [0-9] in its tensors"),
        (lambda s, h: h.update(shape=said(h, width=40000)), r"width, text \[40000, \d+\] in its header"),
        (lambda s, h: h.update(shape=said(h, text=10**12)), r"width, text \[8, 1000000000000\] in its header"),
        (lambda s, h: h.update(shape=said(h, pooled=10**12)), r"width, pooled \[8, 1000000000000\] in its header"),
        (lambda s, h: h.update(shape="[" * 100000), "header cannot be read"),
        (lambda s, h: h.update(shape=json.dumps({"text": 6})), "header cannot be read"),
        (lambda s, h: h.update(regionstyle_gate="2"), "layout '2'"),
        (lambda s, h: h.pop("regionstyle_gate"), "which is no learnt gate"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_says_where(change, said, tmp_path):
    path = broken(tmp_path / "gate.safetensors", change)
    with pytest.raises(RegionStyleError, match=f"learnt gate: .*gate.safetensors.*{said}"):
        load_gate(path)


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(RegionStyleError, match="does not exist"):
        load_gate(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a file")
    with pytest.raises(RegionStyleError, match="bad.safetensors"):
        load_gate(tmp_path / "bad.safetensors")
    with pytest.raises(RegionStyleError, match="ending in .safetensors"):
        save_gate(gate_of(), tmp_path / "gate.pt")


def test_another_text_encoder_and_wrong_sizes_are_refused():
    gate = gate_of()
    with pytest.raises(RegionStyleError, match="width 7.*width 6"):
        gate(text(width=7))
    with pytest.raises(RegionStyleError, match="no pooled output"):
        gate(text(pooled=0))
    for names, shape, said in (
        ((), SHAPE, "experts: got none"),
        (("a", "a"), SHAPE, "experts: got .*'a', 'a'"),
        (NAMES, GateShape(6, width=9), "shape of the learnt gate: got .*width=9"),
        (NAMES, GateShape(0), "shape of the learnt gate: got .*text=0"),
    ):
        with pytest.raises(RegionStyleError, match=said):
            LearntGate(names, shape)


def test_examples_are_lines_of_expert_and_prompt():
    assert examples_of("mosaic: a star, mosaic\n\nneon: sign: neon\n") == [
        GateExample("a star, mosaic", "mosaic"), GateExample("sign: neon", "neon")]  # fmt: skip
    with pytest.raises(RegionStyleError, match="line 2"):
        examples_of("mosaic: a star\nno colon here")


@pytest.fixture(scope="module")
def encode():
    from regionstyle.nodes.tinyworld.bundled import load_predictor

    return load_predictor(LocalHost("cpu")).encode_text


@pytest.mark.slow
def test_it_learns_which_expert_a_prompt_is_for_and_knows_others_like_it(encode):
    styles = ("mosaic", "neon", "watercolor")
    examples = [GateExample(prompt, style) for prompt, style in style_prompts(count=200) if style in styles]
    unseen = [GateExample(prompt, style) for prompt, style in style_prompts(seed=1, count=24) if style in styles]
    settings = GateSettings(steps=200, batch=32)
    gate, losses = train_gate(examples, encode, settings, LocalHost("cpu"))
    assert set(gate.experts) == set(styles)
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    weights = gate(encoded([one.prompt for one in unseen], encode)).weights
    right = [gate.experts[at] == one.expert for at, one in zip(weights.argmax(-1).tolist(), unseen, strict=True)]
    assert sum(right) / len(right) > 0.9
    (one,) = gate(encoded(["a red star in mosaic style"], encode)).weights
    assert float(one[gate.experts.index("mosaic")]) > 0.8
    again, _ = train_gate(examples, encode, settings, LocalHost("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(gate.parameters(), again.parameters(), strict=True))


def test_training_can_be_cancelled_and_refuses_what_it_cannot_use(encode):
    examples = [GateExample("a star in mosaic style", "mosaic"), GateExample("a star in neon style", "neon")]
    with pytest.raises(Cancelled):
        train_gate(examples, encode, GateSettings(steps=5), LocalHost("cpu", cancelled=lambda: True))
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"balance": -1.0}):
        with pytest.raises(RegionStyleError, match=f"{next(iter(wrong))}: got"):
            GateSettings(**wrong)
    with pytest.raises(RegionStyleError, match="prompts"):
        train_gate([], encode, GateSettings(), LocalHost("cpu"))


def test_balance_counts_in_the_loss():
    gate, given, targets = gate_of(GateShape(6, width=8, heads=2)), text(pooled=0), torch.tensor([0, 1, 2])
    with_it, without = (float(gate_loss(gate, given, targets, balance).detach()) for balance in (0.5, 0.0))
    assert with_it - without == pytest.approx(0.5 * float(balance_loss(gate(given)).detach()))
    assert prompts_at(given, torch.tensor([2, 0])).valid.sum(1).tolist() == [2, 0]


def test_the_shipped_gate_knows_every_style_of_the_tiny_world(encode):
    """Fails when the text tower was trained again: then run `regionstyle train gate` for a new file."""
    gate = load_gate(SHIPPED)
    prompts = [f"a pink heart and a blue square in {style} style" for style in gate.experts]
    weights = gate(encoded(prompts, encode)).weights
    assert weights.argmax(-1).tolist() == list(range(len(gate.experts)))
    assert float(weights.diagonal().min()) > 0.7
