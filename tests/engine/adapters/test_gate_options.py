"""What options of gates mean when gates of several experts come together."""

from dataclasses import replace

import pytest
import torch

from regionstyle.nodes.engine.adapters.active_gates import ActiveGates
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.errors import RegionStyleError

MASK = torch.zeros(4, 4)
MASK[:2] = 1


def averaged(gates, name):
    """What an expert does on layers without places: a strength, or None for nothing."""
    value = ActiveGates(gates, ["a", "b"]).pooled(name, (4, 4), 1, torch.device("cpu"))
    return None if value is None else float(value)


@pytest.mark.parametrize("gate", [0.8, torch.tensor([0.8]), MASK])
def test_an_expert_keeps_its_options_when_another_comes_beside_it(gate):
    """Also one without a mask, whose gate is limited to a region later, as when a crop is restyled."""
    first = Gates({"a": gate}, pooled="off", shared_text="off")
    for both in (Gates({"b": MASK}).merged_over(first), first.merged_over(Gates({"b": MASK}))):
        inside = replace(both, values={"a": RegionGate(MASK, 0.8), "b": RegionGate(1 - MASK, 0.8)})
        assert averaged(inside, "a") is None
        assert averaged(inside, "b") == pytest.approx(0.4)
        text = ActiveGates(inside, ["a", "b"])
        shares = [float(text.of_text_tokens(name, 1, 1, torch.device("cpu"))) for name in ("a", "b")]
        assert shares == pytest.approx([0, 0.4])


def test_whoever_is_named_again_is_new():
    both = Gates({"a": MASK}).merged_over(Gates({"a": 1 - MASK, "b": 1.0}, pooled="off"))
    assert averaged(both, "a") == 0.5
    assert both.values["b"] == 1.0


def test_the_last_word_on_what_the_rest_sees_counts():
    one, two = torch.tensor([True, False]), torch.tensor([False, True])
    assert Gates().merged_over(Gates(rest_visible_tokens=one)).rest_visible_tokens is one
    assert Gates(rest_visible_tokens=two).merged_over(Gates(rest_visible_tokens=one)).rest_visible_tokens is two


def test_options_may_be_given_by_expert():
    gates = Gates({"a": MASK, "b": 1 - MASK}, pooled={"a": "off"})
    assert averaged(gates, "a") is None
    assert averaged(gates, "b") == 0.5
    with pytest.raises(RegionStyleError, match="'half'"):
        ActiveGates(Gates({"a": MASK}, pooled={"a": "half"}), ["a"])


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (None, "gate of 'a': got None, expected a finite number"),
        ("1", "gate of 'a': got '1'"),
        ([1, 2], r"gate of 'a': got \[1, 2\]"),
        (torch.tensor([1.0, float("nan")]), "gate of 'a': got .*nan.*finite real numbers"),
        (torch.ones(2, dtype=torch.complex64), "finite real numbers"),
        (RegionGate(MASK, float("nan")), "strength of 'a': got nan"),
        (RegionGate(MASK, float("inf")), "strength of 'a': got inf"),
        (RegionGate(MASK.to(torch.complex64)), "mask of 'a': got torch.complex64"),
        (RegionGate(MASK.tolist()), "mask of 'a': got list"),
        (RegionGate(MASK, owned_tokens=[True]), "owned_tokens of 'a': got list"),
        (RegionGate(MASK, visible_tokens=[True]), "visible_tokens of 'a': got list"),
    ],
)
def test_what_is_no_gate_is_named(gate, said):
    """A NaN that got through would end in a black picture."""
    with pytest.raises(RegionStyleError, match=said):
        ActiveGates(Gates({"a": gate}), ["a"])


@pytest.mark.parametrize("option", [{"pooled": {"skecth": "off"}}, {"shared_text": {"skecth": "off"}}])
def test_an_option_for_an_expert_that_is_not_there_is_an_error(option):
    with pytest.raises(RegionStyleError, match=r"experts \['skecth'\], expected some of \['a', 'b'\]"):
        ActiveGates(Gates({"a": MASK}, **option), ["a", "b"])


@pytest.mark.parametrize("off", [RegionGate(MASK, 0.0), RegionGate(MASK * 0)])
def test_a_region_of_an_expert_that_is_off_still_says_what_is_seen(off):
    visible = torch.tensor([True, False])
    for gates in (Gates({"a": replace(off, visible_tokens=visible)}), Gates({"a": off}, rest_visible_tokens=visible)):
        active = ActiveGates(gates, ["a"])
        assert "a" not in active
        assert active.isolated
    assert ActiveGates(Gates({"a": off}), ["a"]).regions == ()
