"""What a node says: drawn on the node in the browser, and warnings also in ComfyUI's log.

A text in a node's output (`ui.PreviewText`) is kept in /history, but neither front end draws it. What both draw is the
server's progress text, on 0.3.64 as well. It stays on the node until the node says something else: also where a later
run takes the node's result from the cache. A page that is loaded anew draws it from /history (nodes/web/messages.js).
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from typing import Any

from ..errors import printable, shortened

LONGEST_SHOWN = 2000  # characters drawn on a node
CLEARED = " "  # front ends ignore an empty text

log = logging.getLogger("regionstyle")


MOST_PAGES = 32  # whose nodes are remembered: every page that is opened is a new client

# Per client, the last one last, the nodes on which something of this pack can be read now.
_shown: OrderedDict[str, set[str]] = OrderedDict()


def show_message(text: str) -> None:
    """Draw a text on the node that is running, on the page of whoever queued it; "" takes away what stands there.

    Nothing happens where there is no page: without a server, and for prompts that were queued without a browser. Never
    raises: a message must not be what stops a workflow.
    """
    try:
        _send(text)
    except Exception:
        log.warning("a message could not be shown on its node: %s", printable(text), exc_info=True)


def warn(who: str, text: str) -> None:
    """One line in the log."""
    log.warning("%s: %s", printable(who), printable("; ".join(text.splitlines())))


def drawable(text: str) -> str:
    """A text as it is sent to be drawn: printable, not too long, and plain text everywhere.

    The front end of 0.3.64 draws it as HTML. There "<" begins a tag only if the next character is a letter or a sign,
    so an invisible space behind it leaves it as it is written; newer front ends would show an escaped one as "&lt;".
    Nodes 2.0 draws line ends as spaces: lines end with a semicolon.
    """
    lines = printable(shortened(text, LONGEST_SHOWN)).replace("<", "<\u200b").splitlines()
    return ";\n".join(line for line in lines if line.strip())


def _send(text: str) -> None:
    server = _server()
    place = None if server is None else _place(server)
    if place is None or (not text and place[1] not in _shown.get(place[0], ())):
        return
    client, node = place
    server.send_progress_text(drawable(text) or CLEARED, node, client)
    _remember(client, node, shown=bool(text))


def _remember(client: str, node: str, *, shown: bool) -> None:
    nodes = _shown.setdefault(client, set())
    (nodes.add if shown else nodes.discard)(node)
    _shown.move_to_end(client)
    while len(_shown) > MOST_PAGES:
        _shown.popitem(last=False)


def _server() -> Any:
    """The server that runs in this process, if there is one; it is never imported for this."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    return server if hasattr(server, "send_progress_text") else None


def _place(server: Any) -> tuple[str, str] | None:
    """The client that queued the prompt, and the node that is running.

    None outside of a prompt and for one without a client.

    Not from the hidden input `unique_id`, which would make a node's number a part of its cache key.
    """
    from comfy_execution.utils import get_executing_context

    context, client = get_executing_context(), getattr(server, "client_id", None)
    return None if context is None or client is None else (str(client), str(context.node_id))
