"""The article before a phrase, and determiners."""

import pytest

from regionstyle.nodes.engine.language.nouns import with_article


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("red star", "a red star"),
        ("orange triangle", "an orange triangle"),
        ("Umbrella", "an Umbrella"),
        ("unicorn", "a unicorn"),
        ("unimpressed cat", "an unimpressed cat"),
        ("uninteresting car", "an uninteresting car"),
        ("one-eyed cat", "a one-eyed cat"),
        ("hourglass", "an hourglass"),
        ("house", "a house"),
        ("European map", "a European map"),
        ("8 ball", "an 8 ball"),
        ("11 ball", "an 11 ball"),
        ("110 film", "a 110 film"),
        ("an orange triangle", "an orange triangle"),
        ("the moon", "the moon"),
        ("all", "an all"),
    ],
)
def test_an_article_goes_by_the_sound_it_precedes(phrase, said):
    assert with_article(phrase) == said
