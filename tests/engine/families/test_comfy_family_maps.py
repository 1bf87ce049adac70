"""Attention maps and gradients of every model family in ComfyUI."""

import pytest
from family_scripts import GPU_ROUNDING, IN_PROMPT, NEW, cases, each_family_once

pytestmark = pytest.mark.slow


TAP = """
from regionstyle.nodes.engine.attention.tap import AttentionTap

GROUPS = [[1, 2], [5]]
SIZE = (9, 14)

def by_definition(q, k, valid, quantity):
    logits = q @ k.mT * q.shape[-1] ** -0.5
    maps, valid = [], valid.to(q.device)
    for group in GROUPS:
        inside = torch.zeros(k.shape[2], dtype=torch.bool, device=q.device)
        inside[group] = True
        if quantity == "share":
            maps.append(logits.masked_fill(~valid, -torch.inf).softmax(-1)[..., inside].sum(-1).mean(1))
        else:
            rest = valid & ~inside
            odds = logits[..., inside].logsumexp(-1) - logits[..., rest].logsumexp(-1)
            maps.append(odds.mean(1) - torch.log(inside.sum() / rest.sum()))
    return torch.stack(maps, 1)

def watched(family):
    model = comfy_model(family)
    length = COMFY_SHAPES[family][0]
    seen, counts = [], [0]

    def other_pack(func, q, k, v, heads, *args, **kwargs):
        counts[0] += 1
        by_head = (q, k) if kwargs.get("skip_reshape") else (
            x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
        seen.append(tuple(x.clone() for x in by_head))
        return func(q, k, v, heads, *args, **kwargs) * 0.5

    model.model_options["transformer_options"]["optimized_attention_override"] = other_pack
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    x = noise(2, COMFY_SHAPES[family][3], *SIZE)
    text, other = (predictor.from_conditioning(family_conditioning(family, seed)) for seed in (0, 1))
    valid = torch.zeros(length, dtype=torch.bool)
    valid[1:12] = True
    options = dict(model.model_options["transformer_options"])
    plain = predictor.predict(x, 0.4, text).eps
    calls, differences, shapes = counts[0], [], []
    for quantity in ("logodds", "share"):
        seen.clear()
        with AttentionTap(predictor, GROUPS, valid=valid, quantity=quantity) as tap:
            same = predictor.predict(x, 0.4, text).eps
        assert counts[0] == 2 * calls, "the other pack's override was not kept"
        counts[0] = calls
        if family in ("sd", "v", "sdxl"):
            pairs = [(q, k) for q, k in seen if k.shape[2] == length]
        else:
            pairs = [(q[:, :, length:], k[:, :, :length]) for q, k in seen if q.shape[2] == length + 5 * 7]
        assert len(pairs) == len(tap.maps)
        # The network runs its blocks in another order than it lists them: compare by the closest.
        for found in tap.maps.values():
            shapes.append(list(found.shape[1:]))
            same_size = [by_definition(q, k, valid, quantity) for q, k in pairs if q.shape[2] == found[0, 0].numel()]
            differences.append(min(far(found.flatten(2), wanted) for wanted in same_size))
        size = float(torch.stack([m.std() for m in tap.maps.values()]).min())
    with AttentionTap(predictor, GROUPS, valid=valid) as tap:
        predictor.predict_pair(x, 0.4, text, other)
    batch = {len(m) for m in tap.maps.values()}
    modules = list(model.model.modules())
    def broken():
        with AttentionTap(predictor, GROUPS):
            raise RuntimeError("in the middle")
    message(broken)
    return {"paths": list(tap.maps), "differences": max(differences), "size": size, "shapes": shapes,
            "output": far(plain, same), "batch": sorted(batch),
            "options": model.model_options["transformer_options"] == options,
            "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)}

def removed_attention():
    # A block whose attention another pack took away: an error, not a map of something else.
    model = comfy_model("sd3")
    skip = lambda args, extra: {"img": args["img"], "txt": args["txt"]}
    block = model.model.diffusion_model.joint_blocks[0]
    block.forward = lambda context, x, **kwargs: (context, x)
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    text = predictor.from_conditioning(family_conditioning("sd3"))
    with AttentionTap(predictor, GROUPS):
        return message(predictor.predict, noise(1, 16, 8, 8), 0.4, text)

with torch.inference_mode():
    out = {family: watched(family) for family in FAMILIES}
    if "sd3" in FAMILIES:
        out["removed"] = removed_attention()
print(json.dumps(out))
"""

GRADIENTS = (
    IN_PROMPT
    + """
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.host.gradients import ordinary
import comfy.model_management as management

def slopes(predictor, x, text, channels, target, weight):
    # Of two losses, on the prediction and on a map of words: gradient along a direction, and finite difference.
    def of_prediction(latent):
        return (predictor.predict(latent, 0.5, text).denoised.double() * target).sum()

    def of_map(latent):
        with AttentionTap(predictor, [[1, 2], [5]]) as tap:
            predictor.predict(latent, 0.5, text)
        return (tap.mean((8, 10)).double().to(weight.device) * weight).sum()

    found = []
    for loss in (of_prediction, of_map):
        latent = ordinary(x).requires_grad_()
        gradient, = torch.autograd.grad(loss(latent), latent)
        way = gradient / gradient.norm() + ordinary(noise(1, channels, 8, 10, seed=9)) / (channels * 80) ** 0.5
        with torch.no_grad():
            # Two steps of different length cancel the curvature (Richardson).
            one, two = ((float(loss(latent + s * way)) - float(loss(latent - s * way))) / (2 * s) for s in (0.02, 0.04))
        found.append([float((gradient * way).sum()), (4 * one - two) / 3])
    return found

def differentiate(family):
    model, channels = comfy_model(family), COMFY_SHAPES[family][3]
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    text = predictor.from_conditioning(family_conditioning(family))
    x, target, weight = noise(1, channels, 8, 10), noise(1, channels, 8, 10, seed=5), noise(1, 2, 8, 10, seed=6)
    assert all(parameter.is_inference() for parameter in model.model.diffusion_model.parameters())
    plain = predictor.predict(x, 0.5, text).eps
    before = [*model.model.parameters(), *model.model.buffers()]
    with predictor.gradients():
        found = slopes(predictor, x, text, channels, ordinary(target).double(), ordinary(weight).double())
    after = [*model.model.parameters(), *model.model.buffers()]
    return {"slopes": found, "restored": all(a is b for a, b in zip(before, after)),
            "still": far(plain, predictor.predict(x, 0.5, text).eps),
            "flag": getattr(management, "in_training", False)}

out = {family: in_prompt(lambda: differentiate(family)) for family in FAMILIES}
print(json.dumps(out))
"""
)


@pytest.fixture(scope="module")
def run(request):
    """run(version, script, families): what the script says, run once for all tests."""
    return each_family_once(request)


@pytest.mark.parametrize(("version", "families", "family"), cases(gpu=NEW))
def test_maps_equal_softmax_of_what_the_attention_got(run, version, families, family):
    found = run(version, TAP, families)[family]
    assert found["size"] > 1e-3
    rounding = GPU_ROUNDING if version.endswith("gpu") else 0
    assert found["differences"] < 1e-5 + 10 * rounding
    assert found["output"] <= rounding
    assert found["batch"] == [4]
    assert found["options"]
    assert found["hooks"] == 0
    joint = {"sd3": 2, "sd35": 2, "flux": 3, "schnell": 3}
    if family in joint:
        assert found["shapes"] == [[2, 5, 7]] * 2 * joint[family]
        assert found["paths"][0] == "transformer_blocks.0.attn"
        assert len(found["paths"]) == joint[family]
    else:
        assert all(path.endswith("attn2") for path in found["paths"])
        assert [2, 5, 7] in found["shapes"]


@pytest.mark.comfy
def test_a_block_without_attention_is_an_error(run):
    assert "transformer_blocks.0.attn made no attention" in run("run_in_comfy", TAP, NEW)["removed"]


@pytest.mark.parametrize(("version", "families", "family"), cases(gpu=NEW))
def test_gradients_in_a_prompt_agree_with_finite_differences(run, version, families, family):
    found = run(version, GRADIENTS, families)[family]
    for gradient, difference in found["slopes"]:
        assert abs(difference) > 1e-3
        assert gradient == pytest.approx(difference, rel=5e-3)
    assert found["restored"]
    assert found["still"] <= (GPU_ROUNDING if version.endswith("gpu") else 0)
    assert not found["flag"]
