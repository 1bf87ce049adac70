"""Grounding DINO, random weights, real classes: every phrase keeps its own boxes, and what is refused."""

import json
import shutil

import pytest
import torch
from tiny_networks import save_tiny_dino

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.grounding.finders.dino import (
    _without_overlaps,
    find_boxes,
    find_phrases,
    load_detector,
    phrases_of,
)
from regionstyle.nodes.grounding.settings import DetectorSettings

HOST = LocalHost("cpu")
ALL = DetectorSettings(box_threshold=0.0, text_threshold=0.0, most=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_dino(tmp_path_factory.mktemp("models") / "dino-tiny")


@pytest.fixture(scope="module")
def detector(folder):
    return load_detector(folder)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 48, 72, generator=torch.Generator().manual_seed(1))


def test_phrases_are_split_at_full_stops_and_lines():
    assert phrases_of("a cat. a dog.\nthe black and white cow") == ("a cat", "a dog", "the black and white cow")
    assert phrases_of("cat.dog. a 3.5 inch disk.") == ("cat", "dog", "a 3.5 inch disk")
    with pytest.raises(RegionStyleError, match="phrases.*a cat"):
        phrases_of(" . \n")


def test_commas_and_semicolons_divide_phrases_too():
    assert phrases_of("cat, dog") == phrases_of("cat; dog") == phrases_of("cat,dog;") == ("cat", "dog")
    assert phrases_of("a 3,5 inch disk, a cat, a cat") == ("a 3,5 inch disk", "a cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat, (dog:1.3)", r"phrases: got '\(dog:1.3\)', a prompt weight"),
        ("a cat <lora:x:1>", "phrases: got '<lora:x:1>', a tag"),
        ("a cat BREAK a dog", "phrases: got 'BREAK'"),
        ("half a \ud83d cat", "phrases: got half of a character"),
        ("x" * 301, "phrases: got 301 characters"),
        (", ".join(f"thing{number}" for number in range(101)), "phrases: got 101 parts"),
        ("cat, " * 3000, "phrases: got 15000 characters"),
    ],
)
def test_what_is_no_phrase_is_named(text, message):
    with pytest.raises(RegionStyleError, match=message):
        phrases_of(text)


def test_boxes_equal_the_networks_own_postprocessing(detector, images):
    """Against transformers' calls written out, with the text in the form the network was trained on."""
    found = find_boxes(detector, images[0], "Red Star", HOST, ALL, 0)
    picture = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    inputs = detector.processor(images=picture, text="red star.", return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
    (true,) = detector.processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[(48, 72)]
    )
    best = int(true["scores"].argmax())
    assert found.regions[0].score == float(true["scores"][best])
    x0, y0, x1, y1 = true["boxes"][best].tolist()
    box = found.regions[0].box
    assert (box[0], box[1]) == (max(int(x0), 0), max(int(y0), 0))
    assert abs(box[2] - min(x1, 72)) < 1
    assert abs(box[3] - min(y1, 48)) < 1
    assert found.regions[0].phrase == "Red Star"
    scores = [region.score for region in found.regions]
    assert scores == sorted(scores, reverse=True)


def test_every_phrase_keeps_its_own_boxes(detector, images):
    both, _ = find_phrases(detector, images, ["red star", "blue ring"], HOST, ALL)
    alone, _ = find_phrases(detector, images, ["blue ring"], HOST, ALL)
    assert both.phrases == ("red star", "blue ring")
    assert [(r.box, r.score, r.image) for r in both.of_phrase("blue ring")] == [
        (r.box, r.score, r.image) for r in alone
    ]
    assert {r.image for r in both} == {0, 1}
    boxes = {phrase: [(r.box, r.score) for r in both.of_phrase(phrase)] for phrase in both.phrases}
    assert boxes["red star"] != boxes["blue ring"], "the words do not matter"


def test_doubles_are_left_out():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [30, 30, 40, 40]])
    assert _without_overlaps(boxes, torch.tensor([0.5, 0.6, 0.4, 0.9])) == [3, 1, 2]


def test_nothing_found_is_an_empty_region_in_every_picture(detector, images):
    found, seen = find_phrases(detector, images, ["red star"], HOST, DetectorSettings(box_threshold=1.0))
    assert [(r.phrase, r.score, r.image) for r in found] == [("red star", 0, 0), ("red star", 0, 1)]
    assert not found.union().any()
    assert seen == ""


def test_a_box_in_which_no_word_is_seen_is_left_out(detector, images):
    found = find_boxes(detector, images[0], "red star", HOST, DetectorSettings(0.0, 1.0), 0)
    assert found.regions == ()


def test_long_phrases_other_networks_and_missing_files_are_refused(detector, images, folder, tmp_path):
    with pytest.raises(RegionStyleError, match="phrase.*32 tokens"):
        find_boxes(detector, images[0], "red star " * 40, HOST, ALL)
    with pytest.raises(RegionStyleError, match=r"model folder.*config\.json"):
        load_detector(tmp_path / "nothing")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "owlv2"}), encoding="utf-8")
    with pytest.raises(RegionStyleError, match="other, a 'owlv2', expected one of: grounding-dino"):
        load_detector(other)
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    (part / "model.safetensors").unlink()
    with pytest.raises(RegionStyleError, match=r"detector.*part cannot be loaded.*IDEA-Research/grounding-dino-tiny"):
        load_detector(part)


def test_cancel_between_pictures(detector, images):
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report[1]), cancelled=lambda: len(seen) > 0)
    with pytest.raises(Cancelled):
        find_phrases(detector, images, ["red star"], host, ALL)
    assert len(seen) < 2
