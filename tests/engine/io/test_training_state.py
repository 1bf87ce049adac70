"""States of trainings: damaged ones end in one sentence, diverging trainings keep the last good one."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.io.training_state import (
    check_finite,
    finite,
    read_state_file,
    restore_optimizer,
    restoring,
    write_state,
)

KINDS = {"facts": dict, "done": int}


def read(path):
    return read_state_file(path, KINDS, "resume", "Delete it.")


def test_what_is_written_is_read(tmp_path):
    state = {"facts": {"a": 1}, "done": 3, "weights": [torch.ones(2)]}
    write_state(tmp_path / "s.pt", state)
    assert read(tmp_path / "s.pt")["done"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["s.pt"]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"done": 3}, "which lacks facts"),
        ({"facts": [], "done": "3"}, "which lacks facts, done"),
        ([1, 2], "which holds a list"),
        ({"facts": {}, "done": 1, "weights": [torch.tensor(float("nan"))]}, "which holds NaN or infinity"),
        ({"facts": {}, "done": 1, "losses": [1.0, float("inf")]}, "which holds NaN or infinity"),
    ],
)
def test_damaged_states_are_one_sentence(tmp_path, state, said):
    torch.save(state, tmp_path / "s.pt")
    with pytest.raises(RegionStyleError, match=f"resume: got .*s.pt, {said}.*Delete it."):
        read(tmp_path / "s.pt")


def test_a_state_that_would_run_code_is_not_read(tmp_path):
    torch.save({"facts": pytest.raises}, tmp_path / "s.pt")
    with pytest.raises(RegionStyleError, match="cannot be read"):
        read(tmp_path / "s.pt")


def test_an_optimiser_of_another_network(tmp_path):
    def stepped(*shape):
        parameter = torch.nn.Parameter(torch.ones(*shape))
        optimizer = torch.optim.AdamW([parameter], lr=0.5)
        parameter.grad = torch.ones(*shape)
        optimizer.step()
        return optimizer

    with (
        pytest.raises(RegionStyleError, match="whose values do not fit"),
        restoring(tmp_path / "s.pt", "resume", "No."),
    ):
        restore_optimizer(stepped(3, 4), stepped(4, 3).state_dict())
    same = stepped(3, 4)
    other = stepped(3, 4).state_dict()
    other["param_groups"][0]["lr"] = 1e9
    restore_optimizer(same, other)
    assert same.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("values", "losses", "said"),
    [
        ([1.0, float("nan")], [0.5], "weights that are no numbers at step 7"),
        ([1.0, float("inf")], [0.5], "weights that are no numbers at step 7"),
        ([1.0, 2.0], [0.5, float("nan")], "a loss of nan at step 7"),
    ],
)
def test_divergence_is_said_with_what_is_kept(values, losses, said):
    with pytest.raises(RegionStyleError, match=f"{said}.*diverged.*kept here"):
        check_finite([torch.ones(2), torch.tensor(values)], losses, 7, lambda: " kept here")
    check_finite([torch.ones(2)], [0.5], 7, lambda: pytest.fail("asked"))


def test_finite_looks_everywhere():
    assert finite({"a": [1, (2.0, torch.ones(2))], "b": "words", "c": None})
    assert not finite({"a": [1, (2.0, torch.tensor([1.0, float("nan")]))]})
