"""The background lock on ComfyUI's samplers: held means held, for every family, and the last steps can be free."""

import pytest
from family_scripts import cases
from guidance_scripts import GUIDED

pytestmark = pytest.mark.slow
ALL = ["sd", "v", "sdxl", "sd3", "flux"]

LOCK = """
from regionstyle.nodes.sampler.comfy.lock import lock_background
from regionstyle.nodes.sampler.settings import LockSettings

def held(family):
    model, channels = comfy_model(family), COMFY_SHAPES[family][3]
    base = sample(family, model)
    source, mask = noise(1, channels, *SIZE, seed=7), square(16, 24, 40, 56)
    cells = torch.nn.functional.interpolate(mask[None, None], SIZE, mode="area")[0, 0]
    outside, inside = cells == 0, cells == 1
    out = {}
    for sampler in ("euler", "dpmpp_2m", "heun", "euler_ancestral"):
        locked = lock_background(model, mask, source, LockSettings())
        got = sample(family, locked, sampler=sampler)
        out[sampler] = [torch.equal(got[..., outside], source[..., outside]),
                        float((got - source)[..., inside].abs().mean()), bool(got.isfinite().all())]
    free = sample(family, lock_background(model, mask, source, LockSettings(2)))
    out["released"] = float((free - source)[..., outside].abs().max())
    own = sample(family, lock_background(model, mask, None, LockSettings()), latent=source)
    out["own source"] = torch.equal(own[..., outside], source[..., outside])
    pair = lock_background(model, torch.stack([mask, mask.flip(-1)]), source, LockSettings())
    both = sample(family, pair, batch=2)
    out["masks"] = [torch.equal(both[:1][..., outside], source[..., outside]),
                    torch.equal(both[1:][..., outside.flip(-1)], source[..., outside.flip(-1)])]
    together = guided(family, lock_background(model, mask, source, LockSettings()), form="bias")
    got = sample(family, together.model, together.positive)
    out["guided"] = [torch.equal(got[..., outside], source[..., outside]), len(RECORDS)]
    out["mistakes"] = [
        message(lambda: sample(family, lock_background(model, mask, None, LockSettings()))),
        message(lambda: sample(family, lock_background(model, torch.ones(80, 80), source, LockSettings()))),
        message(lambda: sample(family, lock_background(model, mask, noise(1, channels, 4, 4), LockSettings()))),
        message(lambda: sample(family, lock_background(model, torch.ones(3, 80, 112), source, LockSettings()))),
        message(lambda: lock_background(locked, mask, source, LockSettings())),
    ]
    out["after"] = torch.equal(sample(family, model), base)
    return out

with torch.inference_mode():
    out = {family: held(family) for family in FAMILIES}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def held(request):
    """held(version, families): what the script says, run once."""
    made = {}

    def once(version, families):
        if version not in made:
            made[version] = request.getfixturevalue(version)(f"FAMILIES = {families!r}\n" + GUIDED + LOCK)
        return made[version]

    return once


@pytest.mark.parametrize(("version", "families", "family"), cases(ALL, ALL))
def test_what_is_locked_is_the_source_bit_for_bit(held, version, families, family):
    found = held(version, families)[family]
    for sampler in ("euler", "dpmpp_2m", "heun", "euler_ancestral"):
        equal, change, finite = found[sampler]
        assert equal, sampler
        assert change > 0.05, sampler
        assert finite
    assert found["released"] > 1e-3, "the last steps are free"
    assert found["own source"]
    assert found["masks"] == [True, True]
    assert found["guided"] == [True, 4]
    assert found["after"]
    empty, shape, other, several, twice = found["mistakes"]
    assert "source: got nothing, and an empty latent" in empty
    assert "mask: got 80 x 80, expected the shape of the latent" in shape
    assert "source: got a latent" in other
    assert "mask: got 3 masks" in several
    assert "locked already" in twice
