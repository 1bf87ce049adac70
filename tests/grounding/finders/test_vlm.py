"""The vision-language path: strict replies, boxes in every family's way of counting, LLaVA and Qwen-VL classes."""

import json

import pytest
import torch
from tiny_networks import learn_reply, save_tiny_llava, save_tiny_qwen

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.grounding.finders import vlm as module
from regionstyle.nodes.grounding.finders.vlm import _View, ask, load_vlm, pad_to_square, question, read_answer

HOST = LocalHost("cpu")
PROMPT = "make the leftmost cat a mosaic"
REPLY = '[{"region": "leftmost cat", "style": "mosaic", "bbox_2d": [0.25, 0.5, 0.5, 0.75]}]'


def entry(box=None, **changes):
    made = {"region": "the cat", "style": "neon", **({} if box is None else {"bbox_2d": box}), **changes}
    return json.dumps([made])


@pytest.mark.parametrize(
    ("family", "view", "numbers", "pixels"),
    [
        ("llava", _View((200, 300), 0, 50, 300), [0.1, 0.25, 0.5, 0.75], (30, 25, 150, 175)),
        ("llava_next", _View((300, 200), 50, 0, 300), [0.25, 0.1, 0.75, 0.5], (25, 30, 175, 150)),
        ("qwen3_vl", _View((200, 300)), [100, 250, 500, 750], (30, 50, 150, 150)),
        ("qwen2_vl", _View((200, 300)), [100, 250, 500, 750], (30, 50, 150, 150)),
        ("qwen2_5_vl", _View((200, 300), input_size=(56, 84)), [8.4, 14, 42, 42], (30, 50, 150, 150)),
    ],
)
def test_boxes_are_counted_as_the_family_counts(family, view, numbers, pixels):
    (box,) = read_answer(entry(numbers), family, view).boxes
    assert box == pytest.approx(pixels)


def test_boxes_are_sorted_and_cut_to_the_picture():
    (box,) = read_answer(entry([500, 900, -100, 100]), "qwen3_vl", _View((200, 300))).boxes
    assert box == pytest.approx((0, 20, 150, 180))


def test_the_words_become_requests():
    answer = read_answer(f"```json\n{REPLY}\n```", "llava", _View((100, 100), 0, 0, 100))
    (request,) = answer.instruction.requests
    assert (request.query, request.style, request.selector.order) == ("cat", "mosaic", "left")
    assert answer.boxes == ((25, 50, 50, 75),)
    assert read_answer(entry(), "llava", _View((9, 9), 0, 0, 9)).boxes == (None,)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("Sure! The cat is at [0.1, 0.2, 0.3, 0.4].", "not JSON"),
        (f"Here: {REPLY}", "not JSON"),
        (REPLY[:-4], "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a list of objects"),
        ('["cat"]', "not a list of objects"),
        ('{"style": "neon"}', "no 'region'"),
        (entry(style=" "), "no 'style'"),
        (entry(style=3), "no 'style'"),
        (entry([1, 2, 3]), "not four numbers"),
        (entry([1, 2, 3, True]), "not four numbers"),
        (entry(["1", 2, 3, 4]), "not four numbers"),
        (entry([500, 500, 501, 501]), "0.0 percent"),
        (entry([0, 0, 1000, 1000]), "100.0 percent"),
    ],
)
def test_anything_else_is_refused(reply, words):
    with pytest.raises(ValueError, match=words):
        read_answer(reply, "qwen3_vl", _View((200, 300)))


@pytest.mark.parametrize(("height", "width", "left", "top"), [(20, 31, 0, 5), (31, 20, 5, 0), (8, 8, 0, 0)])
def test_padding_puts_the_picture_in_the_middle_of_its_mean(height, width, left, top):
    image = torch.rand(3, height, width)
    square, *sides = pad_to_square(image)
    assert square.shape == (3, max(height, width), max(height, width))
    assert sides == [left, top]
    assert torch.equal(square[:, top : top + height, left : left + width], image)
    if top:
        assert torch.allclose(square[:, 0], image.mean((1, 2))[:, None].expand(-1, square.shape[2]))


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A tiny LLaVA that has learnt one answer by heart."""
    talk = f"[user]<image>{question(PROMPT, 'llava')}\n[assistant]"
    folder = save_tiny_llava(tmp_path_factory.mktemp("models") / "llava-tiny", [talk, REPLY])
    vlm = load_vlm(folder, torch.float32)
    learn_reply(vlm, question(PROMPT, "llava"), REPLY)
    return vlm


@pytest.mark.slow
def test_llava_answers_on_the_padded_square(llava):
    image = torch.rand(3, 40, 80, generator=torch.Generator().manual_seed(0))
    answer = ask(llava, image, PROMPT, HOST)
    assert answer.reply == REPLY
    (box,) = answer.boxes
    assert box == pytest.approx((20, 20, 40, 40))  # y: 0.5 * 80 - 20, 0.75 * 80 - 20
    assert answer.instruction.requests[0].query == "cat"


@pytest.mark.slow
def test_a_bad_reply_is_asked_for_again_and_then_shown(llava, monkeypatch):
    seen = []
    generate = module._generate

    def watch(vlm, image, talk, host):
        seen.append([message["role"] for message in talk])
        return generate(vlm, image, talk, host)

    monkeypatch.setattr(module, "_generate", watch)
    monkeypatch.setattr(module, "MOST_TOKENS", 12)
    with pytest.raises(RegionStyleError, match=r"llava-tiny was asked twice.*not JSON.*It said: '\[") as error:
        ask(llava, torch.rand(3, 30, 30), PROMPT, HOST)
    assert seen == [["user"], ["user", "assistant", "user"]]
    assert "Grounding DINO" in str(error.value)


@pytest.mark.slow
def test_cancel_while_it_speaks(llava):
    checks = []
    host = LocalHost("cpu", cancelled=lambda: checks.append(1) or len(checks) > 3)
    with pytest.raises(Cancelled):
        ask(llava, torch.rand(3, 30, 30), PROMPT, host)
    assert len(checks) == 4


def test_qwen_runs_on_the_picture_as_it_is(tmp_path, monkeypatch):
    """Random weights: what it says is nonsense, but the picture's size inside the network is known."""
    vlm = load_vlm(save_tiny_qwen(tmp_path / "qwen-tiny", [question(PROMPT, "qwen2_5_vl"), REPLY]), torch.float32)
    monkeypatch.setattr(module, "MOST_TOKENS", 4)
    views = []
    read = module.read_answer
    monkeypatch.setattr(
        module, "read_answer", lambda reply, family, view: views.append(view) or read(reply, family, view)
    )
    with pytest.raises(RegionStyleError, match="qwen-tiny was asked twice"):
        ask(vlm, torch.rand(3, 56, 100), PROMPT, HOST)
    assert views[0].size == (56, 100)
    assert views[0].input_size == (56, 112)


@pytest.mark.slow
def test_other_networks_and_empty_prompts_are_refused(llava, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(RegionStyleError, match="a 'bert', expected one of: llava, llava_next, qwen2_vl"):
        load_vlm(tmp_path, torch.float32)
    with pytest.raises(RegionStyleError, match="request: got '  '"):
        ask(llava, torch.rand(3, 30, 30), "  ", HOST)
