"""The training set of the training photographs: complete, readable by whoever reads RPHarmony, the same for a seed."""

import pytest

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

import torch

from regionstyle.nodes.harmonizer.data.photograph_set import JITTER, POISSON, make_photograph_set
from regionstyle.nodes.harmonizer.training.pairs import Pairs
from regionstyle.nodes.metrics.datasets.harmonization import load_iharmony4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    return folder, make_photograph_set(folder, 6, 64, seed=3)


def test_both_kinds_in_the_lists(made):
    folder, paths = made
    assert sorted(path.split("/")[0] for path in paths) == [JITTER] * 3 + [POISSON] * 3
    assert (folder / "train.txt").read_text().split() == paths
    for pair in Pairs.of(folder).all:
        composite, mask, real = pair.read()
        assert composite.shape == real.shape == (1, 3, 64, 64)
        change = (composite - real).abs().mean(1, keepdim=True)
        assert float(change[mask > 0].mean()) > 0.01
        # JPEG spreads a little of the change over the border
        assert float(change[mask == 0].mean()) < 0.3 * float(change[mask > 0].mean())


def test_the_measuring_side_reads_it(made):
    folder, paths = made
    samples = load_iharmony4(folder, "train")
    assert {sample.subset for sample in samples} == {JITTER, POISSON}
    assert len(samples) == len(paths)


def test_the_same_seed_the_same_set(made, tmp_path):
    folder, paths = made
    assert make_photograph_set(tmp_path, 6, 64, seed=3) == paths
    for path in paths:
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes()
    other = make_photograph_set(tmp_path / "other", 2, 64, seed=4)
    first = [Pairs.of(root).all[0].read()[2] for root in (folder, tmp_path / "other")]
    assert len(other) == 2
    assert not torch.equal(*first)
