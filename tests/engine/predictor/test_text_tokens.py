"""Finding a phrase among the tokens of an encoded prompt."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.predictor.base import Text
from regionstyle.nodes.engine.predictor.tokens import find_phrase, find_tokens, shown_tokens, without_weights


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


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("(cat:1.2)", "cat"),
        ("((cat))", "cat"),
        ("(a (red:1.3) cat:0.8)", "a red cat"),
        ("(red:-.5) cat", "red cat"),
        (r"cat \(sleeping\)", "cat (sleeping)"),
        ("cat", "cat"),
        ("1:2", "1:2"),
    ],
)
def test_words_without_weights(words, plain):
    assert without_weights(words) == plain


@pytest.mark.parametrize("phrase", ["(red cat:1.2)", "red (cat:0.5)", "((Red)) cat"])
def test_weights_in_the_phrase_do_not_matter(phrase):
    assert find_phrase(clip_text("a red cat"), phrase) == [2, 3]


def test_parentheses_may_be_letters_of_the_prompt():
    """A host without the weight syntax encodes them."""
    text = clip_text("a cat ( old : 1.2 )")
    assert find_phrase(text, "cat") == [2]
    assert find_phrase(text, "cat (old:12)") == [2, 3, 4, 5, 6, 7, 8]


def t5_text(*pieces):
    length = len(pieces) + 1
    valid = torch.tensor([[True] * len(pieces) + [False]])
    return Text(torch.zeros(1, length, 4), None, [[0] * length], [[*pieces, "</s>"]], valid)


# As the public T5 tokenizer writes the four published styles (RegionRoute, arXiv:2602.19254).
T5_STYLES = {
    "cyberpunk": ["\u2581cyber", "p", "unk"],
    "expressionism": ["\u2581expression", "ism"],
    "line-art": ["\u2581line", "-", "art"],
    "pixel-art": ["\u2581", "pixel", "-", "art"],
}


@pytest.mark.parametrize("style", T5_STYLES)
def test_the_published_styles_in_t5(style):
    """A word's mark may be a token of its own, which is attended to like the others."""
    text = t5_text("\u2581in", *T5_STYLES[style], "\u2581style")
    assert find_phrase(text, style) == list(range(1, 1 + len(T5_STYLES[style])))
    assert find_phrase(text, style.upper()) == find_phrase(text, style)


def test_case_is_folded_letter_by_letter():
    """A capital sigma is another small letter at the end of a word; the pieces do not know where that is."""
    assert find_phrase(t5_text("\u2581\u039f\u0394", "\u039f\u03a3"), "\u03bf\u03b4\u03bf\u03c2") == [0, 1]


def test_every_encoder_and_every_occurrence():
    first, second = clip_text("a cat and a cat"), t5_text("\u2581a", "\u2581cat", "\u2581and", "\u2581a", "\u2581cat")
    length = first.valid.shape[1]
    text = Text(
        torch.zeros(1, length + 6, 4),
        None,
        [[0] * (length + 6)],
        [first.pieces[0] + second.pieces[0]],
        torch.cat([first.valid, second.valid], 1),
        parts=(length, 6),
    )
    assert find_tokens(text, "cat") == [2, length + 1]
    assert find_tokens(text, "cat", every=True) == [2, 5, length + 1, length + 4]
    with pytest.raises(RegionStyleError, match="phrase: got 'cat a'"):  # the end of one and the start of the other
        find_tokens(text, "cat a")
    assert text.repeat(2).parts == text.parts


def test_the_token_list_shows_words_and_marks():
    text = clip_text("a hair.dryer")
    assert shown_tokens(text, find_tokens(text, "hairdryer")) == "1 a, 2 [hair], 3 [dryer]"
