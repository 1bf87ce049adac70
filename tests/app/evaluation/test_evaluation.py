"""`regionstyle evaluate tinyworld`: the numbers, the table, the file, the progress."""

import json

import pytest
import torch

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.evaluation import tinyworld as evaluation
from regionstyle.nodes.app.evaluation.attention import attention_iou, plain_attention_mask
from regionstyle.nodes.app.evaluation.scenes import as_image
from regionstyle.nodes.app.evaluation.tinyworld import held_out
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.grounding.finders.attention_finder import ground_by_attention
from regionstyle.nodes.grounding.settings import AttentionSettings
from regionstyle.nodes.tinyworld.bundled import load_predictor
from regionstyle.nodes.tinyworld.classifier import load_classifier
from regionstyle.nodes.tinyworld.world import COLORS

PARTS = ["autoencoder", "clip", "classifier", "generation", "attention", "restyle"]


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu"))


def overlap(mask, truth) -> float:
    """Intersection over union of what is above one half in both."""
    mask, truth = mask > 0.5, truth > 0.5
    return float((mask & truth).sum() / (mask | truth).sum())


def test_attention_both_ways(predictor):
    seen = []
    host = LocalHost("cpu", on_progress=lambda label, done, total, preview: seen.append((done, total)))
    with torch.no_grad(), predictor.loaded():
        numbers = attention_iou(predictor, held_out, 2, host)
    assert seen == [(1, 2), (2, 2)]
    assert numbers["scenes"] == 2
    expected = {"mean_iou": [], "mean_iou_logodds": []}
    for number in range(2):
        made = held_out(number)
        thing, settings = made.objects[number % len(made.objects)], AttentionSettings()
        with torch.no_grad(), predictor.loaded():
            plain = plain_attention_mask(predictor, as_image(made), thing.phrase, settings)
            found = ground_by_attention(predictor, as_image(made), thing.phrase, settings=settings)
        expected["mean_iou"].append(overlap(plain.numpy(), thing.mask))
        expected["mean_iou_logodds"].append(overlap(found.mask.numpy(), thing.mask))
    for name, overlaps in expected.items():
        assert numbers[name] == pytest.approx(sum(overlaps) / 2, abs=6e-4), name
    assert numbers["mean_iou_logodds"] > numbers["mean_iou"]


def test_plain_attention_is_a_cut_of_the_words_share(predictor):
    made = held_out(1)
    settings = AttentionSettings(levels=(0.1,), noise_samples=1)
    with torch.no_grad(), predictor.loaded():
        first, again, other = (
            plain_attention_mask(predictor, as_image(made), phrase, settings)
            for phrase in (made.objects[0].phrase, made.objects[0].phrase, "grey background")
        )
    assert first.shape == made.objects[0].mask.shape
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_judge_of_generated_pictures_reads_exact_ones():
    numbers = evaluation.classification(load_classifier(), 9, LocalHost("cpu"))
    assert numbers["whole_pictures"] == 64
    assert numbers["whole"] >= 0.95


@pytest.mark.slow
def test_the_command_writes_a_table_and_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "COLORS", {"red": COLORS["red"]})  # fewer pictures to generate
    out = tmp_path / "new" / "numbers.json"
    assert main(["evaluate", "tinyworld", "--scenes", "8", "--json", str(out), "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    numbers = json.loads(out.read_text())
    assert [part for part in PARTS if part not in numbers] == []
    assert numbers["held_out_photographs"] == ["chelsea.png", "coffee.png"]
    assert numbers["scenes"] == numbers["restyle"]["scenes"] == numbers["attention"]["scenes"] == 8
    assert numbers["restyle"]["background_equal"] is True
    assert f"{numbers['attention']['mean_iou_logodds']:.2f}" in shown.out
    assert "chelsea.png, coffee.png" in shown.out
    assert all(style in shown.out for style in numbers["restyle"]["by_style"])
    assert "restyling" in shown.err
    assert "finding" not in shown.err, "the inner loops must not report beside the outer ones"
