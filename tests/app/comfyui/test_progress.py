"""What nodes say of themselves while a workflow runs, on stderr."""

import struct

from regionstyle.nodes.app.comfyui.http_server import _say_text
from regionstyle.nodes.app.comfyui.progress import LONGEST_LINE, RunProgress

PROMPT = {"2:5": {"class_type": "Find", "inputs": {}, "_meta": {"title": "Find by Attention"}}}


def message(kind, node, text):
    """A binary message of ComfyUI's websocket."""
    return struct.pack(">II", kind, len(node)) + node.encode() + text.encode()


def test_a_nodes_words_are_said_once_and_in_one_line(capsys):
    with RunProgress(PROMPT) as progress:
        for text in ("<\u200bb>;\n1 region", "<b>\n1 region", "<b>; 1 region", " ", "found (0.9)"):
            _say_text(message(3, "2:5", text), progress.on_event)
        _say_text(message(1, "2:5", "a preview, which is no text"), progress.on_event)
        progress.say("9", "of a node that is not in the workflow")
        progress.say("2:5", "x" * 1000)
    assert capsys.readouterr().err.splitlines() == [
        "Find by Attention: <b>; 1 region",
        "Find by Attention: found (0.9)",
        f"Find by Attention: {'x' * LONGEST_LINE}...",
    ]
