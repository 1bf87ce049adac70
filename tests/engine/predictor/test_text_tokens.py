"""Finding a phrase among the tokens of an encoded prompt."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.tokens import find_phrase


def clip_text(*prompts):
    """Texts of CLIP pieces (a word ends in "</w>") between start and end; dots separate the pieces of a word."""
    rows = []
    for prompt in prompts:
        words = [[*word.split(".")[:-1], word.split(".")[-1] + "</w>"] for word in prompt.split()]
        rows.append(["<|startoftext|>", *(piece for word in words for piece in word), "<|endoftext|>"])
    length = max(map(len, rows)) + 3
    valid = torch.tensor([[0 < at < len(row) - 1 for at in range(length)] for row in rows])
    pieces = [row + ["<|endoftext|>"] * (length - len(row)) for row in rows]
    return Text(torch.zeros(len(rows), length, 4), None, [[0] * length] * len(rows), pieces, valid)


@pytest.mark.parametrize(
    ("phrase", "positions"),
    [
        ("red cat", [2, 3]),
        ("  Red   CAT ", [2, 3]),
        ("hairdryer", [6, 7]),
        ("a hairdryer, old", [5, 6, 7, 8, 9]),
        ("a", [1]),
        ("1984", [10, 11, 12, 13]),
    ],
)
def test_positions(phrase, positions):
    assert find_phrase(clip_text("a red cat and a hair.dryer , old 1 9 8 4"), phrase) == positions


def test_first_occurrence_and_index():
    text = clip_text("a cat", "the cat and the cat")
    assert find_phrase(text, "cat", index=1) == [2]
    assert find_phrase(text, "cat") == [2]
    assert find_phrase(text, "cat and", index=1) == [2, 3]


def test_whole_words_only():
    text = clip_text("a hair.dryer catalogue cat")
    assert find_phrase(text, "cat") == [5]
    for part in ("dryer", "hair", "catalog"):
        with pytest.raises(RegionStyleError, match=f"phrase: got '{part}'"):
            find_phrase(text, part)


def test_letters_beyond_ascii():
    """Byte-pair tokens hold one stand-in letter per byte: e acute is two."""
    assert find_phrase(clip_text("a ca.f.\u00c3.\u00a9"), "Cafe\u0301") == [2, 3, 4, 5]


def test_sentencepiece():
    pieces = [["\u2581a", "\u2581cat", "\u2581hair", "dry", "er", "</s>"]]
    text = Text(torch.zeros(1, 6, 4), None, [[0] * 6], pieces, torch.tensor([[True] * 5 + [False]]))
    assert find_phrase(text, "hairdryer") == [2, 3, 4]
    assert find_phrase(text, "a cat") == [0, 1]
    with pytest.raises(RegionStyleError, match="phrase: got 'hair'"):
        find_phrase(text, "hair")


@pytest.mark.parametrize("phrase", ["dog", "", "  "])
def test_absent_phrase_shows_the_tokens(phrase):
    with pytest.raises(RegionStyleError, match="a red hair dryer") as error:
        find_phrase(clip_text("a red hair.dryer"), phrase)
    assert repr(phrase) in str(error.value)


def test_template_and_end_are_no_words():
    with pytest.raises(RegionStyleError, match="phrase: got 'endoftext'"):
        find_phrase(clip_text("a cat"), "endoftext")
