"""Ordinals, positions and relations choose among instances."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.language.instruction import Selector
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.grounding.finders.selection import related, select, sort_instances, suppress
from regionstyle.nodes.grounding.finders.sentence_regions import found_notice, queries, sentence_regions
from regionstyle.nodes.grounding.language.prompt import parse_sentence

SIZE = (60, 100)
# name -> box, score
THINGS = {
    "a": ((2, 40, 12, 58), 0.5),
    "b": ((30, 30, 60, 58), 0.9),
    "c": ((70, 2, 76, 8), 0.7),
    "d": ((80, 20, 98, 50), 0.6),
}


def things(names: str = "abcd") -> list[Region]:
    return [Region.of_box(name, THINGS[name][0], SIZE, score=THINGS[name][1]) for name in names]


def names(regions) -> str:
    return "".join(one.phrase for one in regions)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cat", "b"),
        ("leftmost cat", "a"),
        ("rightmost cat", "d"),
        ("second cat from the left", "b"),
        ("second from the right cat", "c"),
        ("topmost cat", "c"),
        ("lowest cat", "a"),
        ("largest cat", "b"),
        ("second largest cat", "d"),
        ("smallest cat", "c"),
        ("cat in the middle", "b"),
        ("cat in the top right corner", "c"),
        ("cat on the left", "a"),
        ("two leftmost cats", "ab"),
        ("all the cats", "bcda"),
        ("both cats", "bc"),
        ("cats on the right", "dc"),
        ("fifth cat", ""),
        ("second cat on the right", "c"),
        ("third cat on the left", ""),
    ],
)
def test_positions(words, expected):
    (request,) = parse_sentence(f"turn {words} into a mosaic").requests
    assert request.query == "cat"
    assert names(select(things(), request.selector)) == expected


@pytest.mark.parametrize(
    ("relation", "anchor", "expected"),
    [
        ("left of", "b", "a"),
        ("right of", "b", "dc"),
        ("above", "a", "bcd"),
        ("below", "c", "dba"),
        ("near", "d", "cba"),
        ("behind", "b", "dc"),
        ("in front of", "d", "ba"),
    ],
)
def test_relations_order_by_fit(relation, anchor, expected):
    found = things()
    assert names(related(found, relation, found["abcd".index(anchor)])) == expected


def test_on_needs_contact():
    table = Region.of_box("table", (0, 50, 70, 60), SIZE)
    assert names(related(things(), "on", table)) == "ab"


def test_a_relation_to_something_not_found_means_nothing():
    assert select(things(), Selector(relation="near", anchor="sofa"), []) == []


def test_the_same_thing_found_twice_is_one():
    twice = [Region.of_box("x", (0, 0, 20, 20), SIZE, score=0.4), Region.of_box("y", (1, 0, 20, 20), SIZE, score=0.8)]
    assert names(suppress(twice)) == "y"
    assert len(suppress(things())) == 4


def test_unknown_orders_are_refused():
    with pytest.raises(RegionStyleError, match="leftmost"):
        sort_instances(things(), "leftmost")


def finder(**found):
    """What is found for each query, with a note of what was asked."""
    asked = []

    def find(query, apart):
        asked.append((query, apart))
        return found.get(query.replace(" ", "_"), [])

    return find, asked


def resolve(text: str, **found):
    return sentence_regions(parse_sentence(text), finder(**found)[0], SIZE)


def test_a_sentence_chooses_and_keeps_phrase_and_style():
    made = resolve("make the second cat from the left neon and the dog gothic", cat=things("bad"), dog=things("c"))
    assert [(one.phrase, one.style, one.box) for one in made.regions] == [
        ("second cat from the left", "neon", THINGS["b"][0]),
        ("dog", "gothic", THINGS["c"][0]),
    ]


def test_all_of_them_keep_a_mask_each():
    made = resolve("make all the cats neon", cat=things("abd"))
    assert len(made.regions) == 3
    assert {one.phrase for one in made.regions} == {"cats"}


def test_instances_are_told_apart_only_where_it_matters():
    find, asked = finder(cat=things("ab"), dog=things("c"))
    sentence_regions(parse_sentence("make the cat neon and the leftmost dog gothic"), find, SIZE)
    assert asked == [("cat", False), ("dog", True)]


def test_background_is_the_complement_and_overlaps_are_cut():
    made = resolve("make the cat neon, the dog gothic and the background a mosaic", cat=things("b"), dog=things("d"))
    total = torch.stack([one.mask for one in made.regions]).sum(0)
    assert torch.equal(total, torch.ones(SIZE))
    over = Region.of_box("dog", (50, 30, 80, 58), SIZE)
    cat, dog = resolve("make the cat neon and the dog gothic", cat=things("b"), dog=[over]).regions
    assert torch.equal(dog.mask, over.mask)
    assert float((cat.mask * dog.mask).max()) == 0
    assert cat.box == (30, 30, 50, 58)


def test_the_whole_picture_lies_below_what_is_named_before_it():
    dog, whole = resolve("make the dog neon and the whole picture gothic", dog=things("d")).regions
    assert torch.equal(whole.mask, 1 - things("d")[0].mask)
    assert dog.mask.any()


def test_things_to_keep_are_cut_out():
    (sky,) = resolve("make the whole picture neon, keep the dog", dog=things("d")).regions
    assert torch.equal(sky.mask, 1 - things("d")[0].mask)
    made = resolve("make the cat neon, keep the dog", cat=things("b"))
    assert made.lost == ("dog",)


def test_not_found_keeps_its_place_and_the_background_waits_for_it():
    made = resolve("make everything except the dog neon and the cat gothic", cat=things("b"))
    assert [one.phrase for one in made.regions] == ["everything except the dog", "cat"]
    assert [bool(one.mask.any()) for one in made.regions] == [False, True]
    assert made.regions[0].score == 0


def test_everything_except_several():
    made = resolve("make everything except the dog and the cat neon", cat=things("b"), dog=things("d"))
    (rest,) = made.regions
    assert torch.equal(rest.mask, 1 - torch.maximum(things("b")[0].mask, things("d")[0].mask))


def test_fewer_than_asked_for_is_said():
    made = resolve(
        "make the three cats neon, the two dogs gothic and the ten cups gold", cat=things("ab"), dog=things("cd")
    )
    assert made.fewer == (("three cats", 2, 3),)
    notice = found_notice(Regions(made.regions, *SIZE), [made])
    assert "'three cats': only 2 of 3 found in image 0" in notice
    assert "'ten cups' not found" in notice


def test_the_background_of_nothing_is_an_error():
    with pytest.raises(RegionStyleError, match="except the dog"):
        resolve("make the background neon")


def test_queries_name_everything_that_has_to_be_found():
    sentence = parse_sentence("make the cat next to the red sofa neon and the sky pixel art, keep the dog")
    assert queries(sentence) == ["cat", "red sofa", "sky", "dog"]
