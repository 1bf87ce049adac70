"""Settings declared at their fields, what they accept, and the options of commands that follow from them."""

import argparse
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from regionstyle.nodes.app.cli.arguments import Parser
from regionstyle.nodes.app.cli.setting_options import add_setting_options
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.settings.checks import (
    check_settings,
    checked,
    quoted,
    settings_from,
)
from regionstyle.nodes.engine.settings.setting import chosen, override, seed_setting, setting, settings_of


@dataclass(frozen=True)
class Brush:
    """What a brush's fields accept."""

    width: int = setting(3, low=1, high=99, unit="pixels", help="How wide.")
    rate: float = setting(0.5, name="learning_rate", low=0.25, high=2, help="How fast, 100 % at most.")
    size: int | None = setting(None, none=0, low=0, high=64, help="Side; 0: the canvas.")
    round: bool = setting(True, help="Round or square.")
    label: str = setting("oil", help="Its words.")
    hair: str = setting("soft", choices=("soft", "hard"), help="Kind of hair.")
    seed: int = seed_setting("Seed.")
    inner: float = 0.5

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Canvas:
    """One more, as nodes often need several."""

    height: int = setting(10, low=1, high=100, help="How high.")


def test_fields_say_all_that_is_known():
    known = settings_of(Brush)
    assert list(known) == ["width", "rate", "size", "round", "label", "hair", "seed"]
    assert [one.kind for one in known.values()] == ["int", "float", "int", "bool", "text", "choice", "int"]
    assert (known["rate"].name, known["rate"].default) == ("learning_rate", 0.5)
    assert known["size"].default == 0  # as users give it
    assert (known["seed"].high, known["seed"].varies) == (2**64 - 1, True)


def test_a_choice_of_objects_goes_by_its_name():
    from regionstyle.nodes.sms.presets import PAPER, REFERENCE
    from regionstyle.nodes.sms.settings import SmsSettings

    preset = settings_of(SmsSettings)["preset"]
    assert (preset.kind, preset.default, list(preset.choices)) == ("choice", "reference", ["reference", "paper"])
    assert settings_from({"preset": "paper"}, SmsSettings)[0].preset is PAPER
    own = replace(REFERENCE, name="own", guidance=1.0)
    assert SmsSettings(own).preset is own  # from Python any will do
    with pytest.raises(RegionStyleError, match="preset: got a dict, expected one of: reference, paper"):
        SmsSettings({})


def test_overrides_change_what_they_name_and_nothing_else():
    first, second = chosen(Brush, ("rate",), {"width": override(default=5), "rate": override(low=0.1)})
    assert (first.field, first.low, first.default) == ("rate", 0.1, 0.5)
    assert (second.field, second.low, second.default) == ("width", 1, 5)
    assert settings_of(Brush)["width"].default == 3
    with pytest.raises(TypeError, match="defualt"):
        override(defualt=1)
    with pytest.raises(KeyError):
        chosen(Brush, ("inner",), {})


def test_values_become_what_the_dataclass_takes():
    given = {"width": 8.0, "learning_rate": 1, "size": 0, "hair": "hard"}
    assert checked(Brush, **given) == {"width": 8, "rate": 1.0, "size": None, "hair": "hard"}
    assert isinstance(checked(Brush, width=np.int64(4))["width"], int)
    brush, canvas = settings_from({"height": 20, "learning_rate": 0.3}, Brush, Canvas)
    assert (brush, canvas) == (Brush(rate=0.3), Canvas(20))
    with pytest.raises(TypeError, match="colour"):
        settings_from({"colour": 1}, Brush)


REFUSED = [
    ("width", 0, "width: got 0, expected a whole number of pixels from 1 to 99. Give such a number."),
    ("width", 2.5, "width: got 2.5, expected a whole number"),
    ("width", True, "width: got True, expected a whole number"),
    ("width", "3", "width: got '3', expected a whole number"),
    ("width", None, "width: got None, expected a whole number"),
    ("width", float("nan"), "width: got nan, expected a whole number"),
    ("width", 10**5000, "width: got a whole number of thousands of digits, expected a whole number"),
    ("width", torch.tensor(3), "width: got a Tensor of shape [], expected a whole number"),
    ("learning_rate", float("nan"), "learning_rate: got nan, expected a number from 0.25 to 2."),
    ("learning_rate", float("inf"), "learning_rate: got inf, expected a number from 0.25 to 2."),
    ("learning_rate", 10**400, "learning_rate: got 1000"),
    ("learning_rate", "\ud800", "learning_rate: got '\\ud800', expected a number"),
    ("learning_rate", 1j, "learning_rate: got a complex, expected a number"),
    ("round", 1, "round: got 1, expected true or false. Give one of the two."),
    ("label", 3, "label: got 3, expected a text. Give a text."),
    ("label", b"oil", "label: got a bytes, expected a text."),
    ("hair", "wet", "hair: got 'wet', expected one of: soft, hard. Choose one of these."),
    ("hair", ["soft"], "hair: got a list, expected one of: soft, hard."),
    ("seed", 2**64, f"seed: got {2**64}, expected a whole number from 0 to {2**64 - 1}."),
    ("colour", 1, "colour: got it, expected one of: width"),
]


@pytest.mark.parametrize(
    ("name", "value", "sentence"), REFUSED, ids=[f"{row[0]}-{at}" for at, row in enumerate(REFUSED)]
)
def test_whatever_else_comes_is_one_sentence(name, value, sentence):
    with pytest.raises(RegionStyleError) as caught:
        checked(Brush, **{name: value})
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 250
    str(caught.value).encode()  # can be logged


def test_an_object_checks_itself():
    assert Brush(size=None).size is None
    for wrong in ({"width": 100}, {"rate": 0.1}, {"size": 65}, {"hair": "wet"}, {"label": None}, {"width": None}):
        with pytest.raises(RegionStyleError):
            Brush(**wrong)


def test_what_came_is_quoted_on_one_short_line():
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 1000)) < 100
    assert quoted(torch.zeros(2, 3)) == "a Tensor of shape [2, 3]"


def parser(**overrides) -> Parser:
    made = Parser(prog="paint")
    add_setting_options(made, Brush, "width", "size", "round", "hair", "rate", options={"rate": "--lr"}, **overrides)
    return made


def test_options_have_default_type_and_choices():
    usual = parser().parse_args([])
    assert vars(usual) == {"width": 3, "size": 0, "no_round": False, "hair": "soft", "lr": 0.5}
    given = parser().parse_args(["--width", "9", "--no-round", "--hair", "hard", "--lr", "1e0"])
    assert vars(given) == {"width": 9, "size": 0, "no_round": True, "hair": "hard", "lr": 1.0}
    assert parser(width=override(default=None)).parse_args([]).width is None
    shown = " ".join(parser().format_help().split())
    assert "--width PIXELS how wide (default: 3)" in shown
    assert "how fast, 100 % at most (default: 0.5)" in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--width", "100"], "argument --width: '100': give a whole number of pixels from 1 to 99"),
        (["--width", "2.5"], "'2.5': give a whole number of pixels from 1 to 99"),
        (["--lr", "nan"], "argument --lr: 'nan': give a number from 0.25 to 2"),
        (["--hair", "wet"], "choose from"),
    ],
)
def test_options_out_of_range_are_one_line(line, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(line)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_options_go_into_groups():
    made = argparse.ArgumentParser()
    add_setting_options(made.add_argument_group("brush"), Brush, "width")
    assert made.parse_args(["--width", "4"]).width == 4
