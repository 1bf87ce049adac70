"""Messages that can be printed, logged and sent whatever they quote, and that stay short."""

import pickle
import traceback

import pytest

from regionstyle.nodes.engine.errors import LONGEST_MESSAGE, LONGEST_QUOTE, RegionStyleError, printable, wrong_input
from regionstyle.nodes.engine.host.memory import OutOfMemory


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\ud83d dog", r"\ud83d dog"),
        ("dog\udc80.png", r"dog\udc80.png"),
        ("a\x1b[31mb\x00c\x7fd\x85e", r"a\x1b[31mb\x00c\x7fd\x85e"),
        ("invoice\u202egpj.exe", r"invoice\u202egpj.exe"),
        ("caf\u00e9 \u72d7 \U0001f436\nline\tend", "caf\u00e9 \u72d7 \U0001f436\nline\tend"),
        ("woman \U0001f469\u200d\U0001f9b0", "woman \U0001f469\u200d\U0001f9b0"),
    ],
)
def test_what_cannot_be_printed_is_written_out(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("make", [RegionStyleError, OutOfMemory, lambda text: wrong_input(text, text, text, text)])
def test_every_error_of_the_pack_can_be_encoded(make):
    message = str(make("half of \ud83d and \x1b"))
    assert r"half of \ud83d and \x1b" in message
    assert message.encode()  # a lone surrogate would raise here, as in a log file or a browser's message


def test_a_long_quotation_loses_its_middle():
    message = str(wrong_input("keys", "first" + "x" * 1_200_000 + "last", "fewer", "Use another file."))
    assert len(message) < LONGEST_QUOTE + 100
    assert message.startswith("keys: got firstxxx")
    assert message.endswith("xlast, expected fewer. Use another file.")
    assert "1199734 characters left out" in message  # 1200009 less 200 at the beginning and 75 at the end


def test_a_short_quotation_stays_whole_and_a_whole_message_is_bounded():
    assert (
        str(wrong_input("name", "y" * LONGEST_QUOTE, "z", "Do.")) == f"name: got {'y' * LONGEST_QUOTE}, expected z. Do."
    )
    listed = str(wrong_input("style", "neon", ", ".join(f"style number {at}" for at in range(200)), "Choose one."))
    assert "style number 100" in listed
    assert len(str(RegionStyleError("x" * 1_000_000))) < LONGEST_MESSAGE + 100


def test_an_error_is_shown_without_the_path_of_its_module():
    """ComfyUI writes module.name for a class; a built-in one's name stands alone."""
    for kind in (RegionStyleError, OutOfMemory):
        assert kind.__module__ == "builtins"
        assert traceback.format_exception_only(kind("phrase: got nothing.")) == [
            f"{kind.__name__}: phrase: got nothing.\n"
        ]


def test_an_error_can_be_sent_to_another_process():
    error = pickle.loads(pickle.dumps(OutOfMemory("tile: got no memory.")))  # noqa: S301
    assert type(error) is RegionStyleError
    assert str(error) == "tile: got no memory."
