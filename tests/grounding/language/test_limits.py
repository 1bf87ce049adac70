"""How long a sentence may be, that reading grows no faster than its length, and which signs are no words."""

import time

import pytest

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.grounding.language import clauses
from regionstyle.nodes.grounding.language.prompt import parse_prompt, parse_regions, parse_sentence, read_sentence
from regionstyle.nodes.grounding.language.written_words import (
    LONGEST_SENTENCE,
    MOST_PARTS,
    check_text,
    check_words,
)  # fmt: skip

REPEATED = [
    "make the dog neon, ",
    "make the dog neon and ",
    "make the big dog odd and ",
    "the dog in watercolor and the ",
    "apply neon to the dog and ",
    "keep the dog, ",
    "make the dog neon. ",
    "dog, ",
    "the first of the ",
    "turn it into a mosaic; ",
]


@pytest.mark.parametrize("clause", REPEATED)
@pytest.mark.parametrize("read", [read_sentence, parse_sentence, parse_regions, parse_prompt])
def test_two_thousand_repeats_are_refused_at_once_by_one_error(clause, read):
    began = time.process_time()
    with pytest.raises(RegionStyleError, match=rf"^sentence: got \d+ characters .*expected at most {LONGEST_SENTENCE}"):
        read(clause * 2000)
    assert time.process_time() - began < 0.5


def test_too_many_parts_are_refused_by_their_number():
    listed = ", ".join(f"the thing{number}" for number in range(MOST_PARTS))
    assert len(read_sentence(listed, style="neon").requests) == MOST_PARTS
    with pytest.raises(RegionStyleError, match=f"sentence: got {MOST_PARTS + 1} parts .*at most {MOST_PARTS}"):
        read_sentence(f"{listed}, the moon", style="neon")
    with pytest.raises(RegionStyleError, match=f"sentence: got {MOST_PARTS + 1} parts"):
        read_sentence("make it neon. " * (MOST_PARTS + 1))


@pytest.fixture
def tried(monkeypatch):
    """The clauses that were tried, in order."""
    tried, read = [], clauses.read_clause

    def counted(*args, **keywords):
        tried.append(args[:2])
        return read(*args, **keywords)

    monkeypatch.setattr(clauses, "read_clause", counted)
    return tried


@pytest.mark.parametrize(
    "clause",
    [
        "make the dog neon and ",
        "make the big dog odd and ",
        "apply neon to the dog and ",
        "the dog in watercolor, ",
        "the dog and the cat odd, ",
    ],
)
def test_the_number_of_clauses_tried_grows_linearly(clause, tried):
    counts = []
    for repeats in (10, 20, 40):
        read_sentence(clause * repeats)
        counts.append(len(tried))
        tried.clear()
    assert counts[0] > 0
    assert counts[2] <= 2.5 * counts[1] + 10


@pytest.mark.parametrize(
    "few",
    [
        "make the dog neon and ",
        "as a ",
        "a mosaic while : gothic in watercolor to the ",
        "the rest look like the rest as a and the ",
        "look like please second ' , the ",
        "turn the cat into in the and the one of the ",
        "near the dog ",
        "\" ' ( ",
    ],
)
def test_the_longest_sentences_are_read_in_bounded_time(few):
    text = few * (LONGEST_SENTENCE // len(few))
    while len(text) > 10 and text.count(" and ") + text.count(",") + text.count(" while ") > MOST_PARTS - 3:
        text = text[: -len(few)]
    began = time.process_time()
    read_sentence(text)
    assert time.process_time() - began < 4  # about half a second; it took minutes


def test_many_clauses_are_all_understood():
    sentence = ", ".join(f"make the thing{number}x neon" for number in range(MOST_PARTS))
    assert len(parse_sentence(sentence).requests) == MOST_PARTS
    listed = "apply neon to " + ", ".join(f"the thing{number}x" for number in range(60))
    assert len(parse_sentence(listed).requests) == 60


def test_a_command_that_cannot_be_read_is_not_taken_for_a_thing_to_keep():
    read = read_sentence("make the cat neon, keep the rest and make the dog wonderful today")
    assert read.unread == ("make the cat neon, keep the rest and make the dog wonderful today",)


@pytest.mark.parametrize(
    ("sentence", "sign", "advice"),
    [
        ("make the (orange triangle:1.2) neon", "(orange triangle:1.2)", "Write 'orange triangle' alone"),
        ("make the orange triangle (neon:1.3)", "(neon:1.3)", "Write 'neon' alone"),
        ("make the dog neon, (masterpiece:1.2), best quality", "(masterpiece:1.2)", "Write 'masterpiece' alone"),
        ("make the \uff08dog\uff1a1.3\uff09 neon", "(dog:1.3)", "Write 'dog' alone"),
        ("make the [dog:0.5] neon", "[dog:0.5]", "Write 'dog' alone"),
        ("make the ((dog)) neon", "((dog))", "Write 'dog' alone"),
        ("make the dog neon <lora:ghibli:0.8>", "<lora:ghibli:0.8>", "Attach Style Expert"),
        ("make the dog embedding:easynegative", "embedding:easynegative", "Attach Style Expert"),
        ("make the dog neon BREAK make the cat mosaic", "BREAK", "a comma or a full stop"),
    ],
)
def test_signs_of_other_programs_are_named_as_what_they_are(sentence, sign, advice):
    for read in (read_sentence, parse_sentence, parse_regions, parse_prompt):
        with pytest.raises(RegionStyleError) as caught:
            read(sentence)
        message = str(caught.value)
        assert message.startswith(f"sentence: got {sign!r}, ")
        assert "other programs, expected plain words" in message
        assert advice in message


@pytest.mark.parametrize(
    "sentence",
    [
        "make the dog neon, the glass breaks",
        "BREAK THE GLASS INTO A MOSAIC",
        'make the "(dog:1.3)" neon',
        'apply "BREAK" style to the dog',
        "make the dog (the big one) neon",
        "dog: 1980s",
    ],
)
def test_words_that_only_look_like_such_signs_are_read(sentence):
    read_sentence(sentence)


def test_half_a_character_is_refused_and_shown_in_a_message_that_can_be_printed():
    for read in (read_sentence, parse_sentence, parse_regions, parse_prompt):
        with pytest.raises(RegionStyleError, match=r"half of a character.*Type the words again") as caught:
            read("make the \ud83d dog neon")
        assert "ud83d" in str(caught.value).encode().decode()


def test_one_thing_has_a_bounded_number_of_words():
    with pytest.raises(RegionStyleError, match="sentence: got 301 characters for one thing"):
        read_sentence(f"turn '{'x' * 301}' into a mosaic")
    with pytest.raises(RegionStyleError, match="phrase: got 301 characters"):
        check_words("x" * 301, "phrase")
    check_words("x" * 300, "phrase")
    check_text("(dog:1.3) " * 100, "caption")


@pytest.mark.parametrize(
    "sentence",
    [
        "make an orange triangle neon",
        "apply neon to an orange triangle",
        "turn an orange triangle into an oil painting, keep an orange ring",
        "give an orange triangle a neon look",
        "an orange triangle: neon",
        "make the dog gothic and an orange triangle neon",
        "an orange triangle should be neon",
    ],
)
def test_an_orange_triangle_is_read_like_a_triangle(sentence):
    assert parse_sentence(sentence).requests[-1].query == "orange triangle"
    (thing,) = parse_regions("an orange triangle").requests
    assert (thing.phrase, thing.query, thing.style) == ("orange triangle", "orange triangle", "")
