"""What a model is told about a region: the same words in every door."""

import pytest

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.language.region_prompt import noun_of, region_prompt


@pytest.mark.parametrize(
    ("phrases", "prompt"),
    [
        (["red star"], "a red star in neon style"),
        (["the red star"], "a red star in neon style"),
        (["leftmost cat"], "a cat in neon style"),
        (["second cat from the left"], "a cat in neon style"),
        (["two dogs"], "a dog in neon style"),
        (["cat next to the dog"], "a cat in neon style"),
        (["background"], "a picture in neon style"),
        (["the rest of the picture"], "a picture in neon style"),
        (["everything except the dog"], "a picture in neon style"),
        (["whole picture"], "a picture in neon style"),
        ([""], "a picture in neon style"),
        (["the a"], "an a in neon style"),
        (["orange triangle"], "an orange triangle in neon style"),
        (["the umbrella", "cat"], "an umbrella and cat in neon style"),
        (["unicorn"], "a unicorn in neon style"),
        ([], "a picture in neon style"),
        (["red star", "moon"], "a red star and moon in neon style"),
        (["leftmost cat", "rightmost cat"], "a cat in neon style"),
        (["background", "dog"], "a dog and background in neon style"),
        (["dog", "background", "everything else"], "a dog and background in neon style"),
    ],
)
def test_prompts_name_the_thing_and_not_its_place(phrases, prompt):
    assert region_prompt(phrases, "neon") == prompt


def test_templates():
    assert region_prompt(["cat"], "neon", "nn style, {style}") == "nn style, neon"
    assert region_prompt(["the cat"], "neon", "{style}: {phrase}, {phrase}") == "neon: cat, cat"
    assert region_prompt(["old man"], "neon", "A {phrase}, {style}, of a {phrase}") == "An old man, neon, of an old man"
    assert region_prompt(["cat"], "neon", "an {phrase} in {style}") == "a cat in neon"
    assert region_prompt(["owl"], "neon", "panda {phrase}, area {style}") == "panda owl, area neon"
    for template in ("a {phrase}", "", "{Style}"):
        with pytest.raises(RegionStyleError, match=r"template: got .*expected \{style\} in it"):
            region_prompt(["cat"], "neon", template)


def test_an_area_is_no_thing():
    assert noun_of("background") is None
    assert noun_of("") is None
    assert noun_of("the largest of the dogs") == "dog"
