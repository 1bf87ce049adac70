"""The state of a style training: what it must hold."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.training.state import ENTRIES, FORMAT, read_state, unfinished

STATE = {"format": FORMAT, "facts": {"rank": 8}, "done": 3, "steps": 5, "losses": [0.5], "scale": 8.0,
         "weights": [torch.ones(2)], "optimizer": {}}  # fmt: skip


def saved(path, **changes):
    torch.save({key: value for key, value in {**STATE, **changes}.items() if value is not None}, path)
    return path


def test_a_whole_state_is_read(tmp_path):
    assert read_state(saved(tmp_path / "x.train.pt"))["facts"] == {"rank": 8}
    assert unfinished(tmp_path / "x.train.pt")
    assert not unfinished(saved(tmp_path / "x.train.pt", done=5))
    assert not unfinished(tmp_path / "none.pt")


@pytest.mark.parametrize("lost", ENTRIES)
def test_a_state_that_lacks_something_is_one_sentence(tmp_path, lost):
    path = saved(tmp_path / "x.train.pt", **{lost: None})
    with pytest.raises(RegionStyleError, match=f"resume: got .*x.train.pt, which lacks {lost}, .*Delete it"):
        read_state(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 99}, "of another kind"),
        ({"weights": ["a"]}, "of another kind"),
        ({"weights": [torch.tensor(float("nan"))]}, "NaN or infinity"),
        ({"losses": {}}, "lacks losses"),
    ],
)
def test_a_state_of_another_kind(tmp_path, changes, said):
    with pytest.raises(RegionStyleError, match=said):
        read_state(saved(tmp_path / "x.train.pt", **changes))
