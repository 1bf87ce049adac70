from random import Random

import pytest

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.language.instruction import EditRequest, Selector
from regionstyle.nodes.grounding.language.prompt import parse_prompt, parse_regions, parse_sentence, read_sentence
from regionstyle.nodes.grounding.language.style_names import lexicon

STYLES = ["pixel art", "pencil sketch", "halftone", "posterised", "oil paint", "mosaic", "neon", "watercolor"]


@pytest.mark.parametrize(
    ("sentence", "phrase", "style"),
    [
        ("make the red star mosaic", "red star", "mosaic"),
        ("make the star pixel art", "star", "pixel art"),
        ("Make the blue circle a pencil sketch.", "blue circle", "pencil sketch"),
        ("turn the heart into watercolour", "heart", "watercolor"),
        ("paint the dog in an oil painting style", "dog", "oil paint"),
        ("make the sky look like pixel art", "sky", "pixel art"),
        ("apply halftone style to the coffee cup", "coffee cup", "halftone"),
        ("the ring in neon style", "ring", "neon"),
        ("please make the green cross posterized", "green cross", "posterised"),
        ("make the moon mosaic style", "moon", "mosaic"),
        ("turn the moon into pixel-art", "moon", "pixel art"),
    ],
)
def test_forms(sentence, phrase, style):
    read = parse_prompt(sentence, STYLES)
    assert (read.phrase, read.style) == (phrase, style)


def test_free_styles_need_a_linking_word():
    assert parse_prompt("turn the dog into a ukiyo-e print") == EditRequest("dog", "ukiyo-e print")
    with pytest.raises(RegionStyleError, match="expected one of"):
        parse_prompt("make the big dog wonderful")


def test_style_given_apart():
    assert parse_prompt("red star", STYLES, "neon") == EditRequest("red star", "neon")
    assert parse_prompt("make the red star mosaic", STYLES, "neon") == EditRequest("red star", "neon")


@pytest.mark.parametrize("sentence", ["", "star", "make the star impressionist"])
def test_what_is_not_understood_is_said(sentence):
    with pytest.raises(RegionStyleError, match="mosaic"):
        parse_prompt(sentence, STYLES)


def test_an_unknown_style_lists_the_known_ones():
    with pytest.raises(RegionStyleError, match=r"cubism.*pixel art, pencil sketch"):
        parse_prompt("turn the star into cubism", STYLES)


# The sentence and its regions -> styles.
SENTENCES = [
    ("apply cubism style to the building in the image", "building -> cubism"),
    (
        "apply Starry Night by Van Gogh style to the chair on the left of sofa in the image",
        "chair on the left of sofa -> Starry Night by Van Gogh",
    ),
    ("make the man in pixel-art style, keep other area unchanged", "man -> pixel-art"),
    ("make the dog cyberpunk", "dog -> cyberpunk"),
    ("make the dog pixel-art and the car cyberpunk", "dog -> pixel-art; car -> cyberpunk"),
    ("make the dog and the cat pixel art", "dog -> pixel art; cat -> pixel art"),
    (
        "apply watercolor painting to the sky and the water",
        "sky -> watercolor painting; water -> watercolor painting",
    ),
    (
        "Apply oil painting of roses style to the leftmost cat; apply white wool to the second cat from the left.",
        "leftmost cat -> oil painting of roses; second cat from the left -> white wool",
    ),
    ("paint the sky in the style of Starry Night", "sky -> Starry Night"),
    ("make the black and white cat look like stained glass", "black and white cat -> stained glass"),
    ("give the house a low poly look", "house -> low poly"),
    ("sky: starry night", "sky -> starry night"),
    ("paint the woman in the red dress in expressionism style", "woman in the red dress -> expressionism"),
    ("make all the windows golden", "windows -> golden"),
    ('apply "neon, wet street" style to the road', "road -> neon, wet street"),
    ("stylize the person on the right as ukiyo-e", "person on the right -> ukiyo-e"),
    (
        "make the man riding a horse in cyberpunk style and keep the rest of the image unchanged",
        "man riding a horse -> cyberpunk",
    ),
    ("turn the red car into a line-art drawing", "red car -> line-art drawing"),
    ("turn the tree on the left of the house into gold", "tree on the left of the house -> gold"),
    ("make the cat with a hat cyberpunk", "cat with a hat -> cyberpunk"),
    (
        "make the car on the right pixel-art and the tree line art, keep everything else unchanged",
        "car on the right -> pixel-art; tree -> line art",
    ),
    ("make the two dogs anime", "two dogs -> anime"),
    ("the dog in watercolor, the sky like pixel art", "dog -> watercolor; sky -> pixel art"),
    ("the dog in watercolor and the sky pixel art", "dog -> watercolor; sky -> pixel art"),
    ("apply cubism to the sky and pop art to the water", "sky -> cubism; water -> pop art"),
    ("apply black and white to the dog and neon to the cat", "dog -> black and white; cat -> neon"),
    ("make the two dogs and the cat anime", "two dogs -> anime; cat -> anime"),
    ("make the dog in watercolor and turn the cat into gold", "dog -> watercolor; cat -> gold"),
    ("make the wine glass and the bottle neon", "wine glass -> neon; bottle -> neon"),
    ("sky: starry night, dog: neon", "sky -> starry night; dog -> neon"),
    ("turn the man in a suit into a robot in space", "man in a suit -> robot in space"),
    ("paint the sky pink, leaving the rest alone", "sky -> pink"),
    ("make the man with sunglasses anime", "man with sunglasses -> anime"),
    ("could you please make the dog\u2019s house gothic?", "dog's house -> gothic"),
    ("make the dog neon. Then make it watercolor.", "dog -> watercolor"),
    ("make the dog neon and make the Dog gothic", "Dog -> gothic"),
    ("turn it into a mosaic", "it -> mosaic"),
    ("paint the tree between the dog and the cat in oil", "tree between the dog and the cat -> oil"),
    ("make everything except the dog and the cat a mosaic", "everything except the dog and the cat -> mosaic"),
    ("make all but the dog neon", "all but the dog -> neon"),
    ("make the first and the third dog neon", "first dog -> neon; third dog -> neon"),
    ("make the leftmost and rightmost cats neon", "leftmost cat -> neon; rightmost cat -> neon"),
    ("apply cubism to the dog, cat, and bird", "dog -> cubism; cat -> cubism; bird -> cubism"),
    ("make the man and woman neon", "man -> neon; woman -> neon"),
    ("make the dog neon and please make the cat mosaic, please", "dog -> neon; cat -> mosaic"),
    ("make the dog neon, the cat stays", "dog -> neon"),
    ("make the dog neon and the rest unchanged", "dog -> neon"),
    ("first make the dog neon, the rest mosaic", "dog -> neon; rest -> mosaic"),
    ("the dog should look like a mosaic", "dog -> mosaic"),
    ("I want the dog to be neon", "dog -> neon"),
    ("apply style cubism to the dog", "dog -> cubism"),
    ("change the style of the dog to neon", "dog -> neon"),
    ("change the dog's style to neon", "dog -> neon"),
    ("apply neon to the cat and dog and mosaic to the bird", "cat -> neon; dog -> neon; bird -> mosaic"),
    ("apply cubism and neon to the dog", "dog -> cubism and neon"),
    ("make the dog neon & the cat mosaic", "dog -> neon; cat -> mosaic"),
    ("make the left and right eye neon", "left eye -> neon; right eye -> neon"),
    ("- make the dog neon\n* cat: mosaic\n3. bird: gothic", "dog -> neon; cat -> mosaic; bird -> gothic"),
    ("make the orange neon", "orange -> neon"),
    ("hello world", ""),
    ("make the red and the blue car neon", ""),
    ("make the dog (the big one) neon", ""),
    ("make the dog/cat neon", ""),
    ("make the dog or the cat neon", ""),
    ("make the dog as neon as possible", "dog -> neon as possible"),
    ("make the dog very neon", ""),
    ("make the dog 50% neon", ""),
    ("make the dog neon and mosaic", ""),
    ("make the dog a mix of cubism and pixel art", ""),
    ("make the dog not neon", ""),
    ("make no dog neon", ""),
    ("make the dog neon the cat mosaic", ""),
    ("make dog neon, cat mosaic, bird halftone", ""),
    ("make the second from the left neon", ""),
    ("make the one on the left neon", ""),
    ("make every second dog neon", ""),
    ("make the 0 dogs neon", ""),
    ("make the dog neon, keep the one on the left", ""),
    ("make the dogs but the leftmost neon", ""),
    ("make the right side of the house neon", ""),
    ("render in mosaic", ""),
    ("{dog: neon}", ""),
    ("make the red car", ""),
    ("make the two dogs", ""),
]


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES, ids=[case[0][:40] for case in SENTENCES])
def test_sentences(sentence, expected):
    read = read_sentence(sentence)
    assert "; ".join(f"{one.phrase} -> {one.style}" for one in read.requests) == expected
    assert bool(read.unread) == (not expected)


@pytest.mark.parametrize(
    ("words", "query", "selector"),
    [
        ("cat", "cat", Selector()),
        ("leftmost cat", "cat", Selector(order="left")),
        ("second cat from the left", "cat", Selector(order="left", rank=2)),
        ("cat second from the right", "cat", Selector(order="right", rank=2)),
        ("third largest dog", "dog", Selector(order="largest", rank=3)),
        ("2nd star", "star", Selector(order="left", rank=2)),
        ("last tree from the left", "tree", Selector(order="right")),
        ("two leftmost cats", "cat", Selector(order="left", count=2)),
        ("person on the right", "person", Selector(order="right", half=True)),
        ("windows on the left", "window", Selector(order="left", half=True, count=None)),
        ("cup in the middle", "cup", Selector(order="center")),
        ("star in the top left corner", "star", Selector(order="top left", half=True)),
        ("man in the foreground", "man", Selector(order="largest")),
        ("all the windows", "window", Selector(count=None)),
        ("both dogs", "dog", Selector(count=2)),
        ("every red box", "red box", Selector(count=None)),
        ("three of the cherries", "cherry", Selector(count=3)),
        ("people", "person", Selector(count=None)),
        ("men with hats", "man with hats", Selector(count=None)),
        ("sky", "sky", Selector(count=None)),
        ("glass", "glass", Selector()),
        ("cat on the left of the sofa", "cat", Selector(relation="left of", anchor="sofa")),
        ("cat to the right of Anna", "cat", Selector(relation="right of", anchor="Anna")),
        ("lamp above the table", "lamp", Selector(relation="above", anchor="table")),
        ("leftmost cup on the table", "cup", Selector(order="left", relation="on", anchor="table")),
        ("chair next to the red sofa", "chair", Selector(relation="near", anchor="red sofa")),
        ("dog behind a fence", "dog", Selector(relation="behind", anchor="fence")),
        ("top left star", "star", Selector(order="top left")),
        ("second-largest cat", "cat", Selector(order="largest", rank=2)),
        ("biggest of the stars", "star", Selector(order="largest")),
        ("twelfth star", "star", Selector(order="left", rank=12)),
        ("last two stars", "star", Selector(order="right", count=2)),
        ("dog between the cats", "dog between the cats", Selector()),
        ("star nearest to the cup", "star", Selector(relation="near", anchor="cup")),
        ("top of the table", "top of the table", Selector()),
        ("background", "background", Selector(kind="rest", count=None)),
        ("background except the dog", "background except the dog", Selector(kind="rest", count=None, anchor="dog")),
        ("everything else", "everything else", Selector(kind="rest", count=None)),
        ("everything except the dog", "everything except the dog", Selector(kind="rest", count=None, anchor="dog")),
        ("whole picture", "whole picture", Selector(kind="whole", count=None)),
    ],
)
def test_positions_and_numbers(words, query, selector):
    (request,) = parse_sentence(f"turn {words} into a mosaic").requests
    assert (request.query, request.selector) == (query, selector)


def test_things_to_keep():
    read = parse_sentence("make the background neon, keep the dog and the cat as they are")
    assert [one.phrase for one in read.kept] == ["dog", "cat"]
    assert read.requests[0].selector.kind == "rest"
    assert str(read) == "background -> neon; dog stays; cat stays"
    assert not parse_sentence("make the dog neon, keep everything else unchanged").kept


def test_the_error_shows_what_was_understood():
    with pytest.raises(RegionStyleError, match=r"understood: dog -> neon; not understood: 'make the big cat odd'"):
        parse_sentence("make the dog neon; make the big cat odd")
    with pytest.raises(RegionStyleError, match="one thing at a time"):
        parse_prompt("make the dog neon and the cat anime")


def test_a_style_given_apart_counts_for_every_thing():
    read = parse_sentence("the red star and the moon", STYLES, "neon")
    assert [(one.phrase, one.style) for one in read.requests] == [("red star", "neon"), ("moon", "neon")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("red star", [("red star", "")]),
        ("red star, the two dogs; the moon", [("red star", ""), ("two dogs", ""), ("moon", "")]),
        ("the man in red and the dog", [("man in red", ""), ("dog", "")]),
        ("man in red", [("man in red", "")]),
        ("first star", [("first star", "")]),
        ("first and third star", [("first star", ""), ("third star", "")]),
        ("dog and cat", [("dog", ""), ("cat", "")]),
        ("second and third star", [("second star", ""), ("third star", "")]),
        ("the man in watercolor", [("man", "watercolor")]),
        ("make the man neon", [("man", "neon")]),
    ],
)
def test_things_without_styles(words, expected):
    assert [(one.phrase, one.style) for one in parse_regions(words).requests] == expected


def test_what_is_no_thing_is_no_list_of_things():
    with pytest.raises(RegionStyleError, match="not understood: 'the dog, not the cat'"):
        parse_regions("the dog, not the cat")


def test_a_command_that_is_not_understood_is_no_list_of_things():
    with pytest.raises(RegionStyleError, match="not understood"):
        parse_regions("make the big dog wonderful")


def test_things_without_a_style_are_shown_without_an_arrow():
    assert str(parse_regions("the red star, the leftmost cat")) == (
        "red star; leftmost cat (look for 'cat', number 1 by left)"
    )


def test_a_long_prompt_is_read_in_good_time():
    import time

    began = time.monotonic()
    assert read_sentence("apply " + " and ".join(f"thing{n}" for n in range(60))).unread
    many = parse_sentence("make " + ", ".join(f"the thing{n}x neon" for n in range(60)))
    assert len(many.requests) == 60
    assert time.monotonic() - began < 5


def generated() -> list[tuple[str, list[tuple[str, str]]]]:
    """200 sentences made from parts, with the regions and styles they were made from."""
    random = Random(20)
    nouns = [
        "dog",
        "red car",
        "old wooden chair",
        "black and white cat",
        "street lamp",
        "girl with a balloon",
        "bridge",
    ]
    places = ["", "", "", " on the left", " next to the fountain", " in the middle", " under the tall tree"]
    ranks = ["", "", "", "leftmost ", "second largest ", "two ", "third "]
    styles = [
        "watercolor",
        "pixel art",
        "stained-glass",
        "ukiyo-e",
        "oil painting",
        "Starry Night by Van Gogh",
        "low poly",
    ]
    forms = [
        ("apply {s} style to the {r}", "apply {s} style to the {r}"),
        ("make the {r} {s}", "the {r} {s}"),
        ("turn the {r} into a {s}", "the {r} into a {s}"),
        ("paint the {r} in the style of {s}", "the {r} in the style of {s}"),
        ("give the {r} a {s} look", "give the {r} a {s} look"),
        ("make the {r} look like {s}", "the {r} look like {s}"),
        ("the {r} in {s} style", "the {r} in {s} style"),
        ("{r}: {s}", "{r}: {s}"),
    ]

    def region() -> str:
        return random.choice(ranks) + random.choice(nouns) + random.choice(places)

    made = []
    for number in range(200):
        first, later = forms[number % len(forms)]
        pairs = [(region(), random.choice(styles)) for _ in range(random.choice((1, 1, 2, 3)))]
        pairs = list({pair[0]: pair for pair in pairs}.values())
        joint = random.choice((", ", " and ", ", and ")) if first != forms[7][0] else "; "
        parts = [(first if at == 0 else later).format(r=r, s=s) for at, (r, s) in enumerate(pairs)]
        tail = random.choice(("", "", ".", ", keep everything else unchanged"))
        made.append((joint.join(parts) + tail, pairs))
    return made


@pytest.mark.parametrize(("sentence", "pairs"), generated())
def test_generated_sentences(sentence, pairs):
    assert [(one.phrase, one.style) for one in parse_sentence(sentence).requests] == pairs


def test_the_lexicon_has_no_doubles_of_things():
    assert len(lexicon()) >= 150
    assert not lexicon() & {"glass", "dog", "house", "tree", "star", "paper", "stone", "car"}
