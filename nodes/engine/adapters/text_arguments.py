"""A cross-attention called with some tokens of its text only, as if the others were not there.

Leaving keys out is a bias of minus infinity, works with any attention function, and costs less.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_input


@dataclass(frozen=True)
class TextArguments:
    """The arguments of a cross-attention's forward beside the image, by name, and which of them are text."""

    arguments: dict[str, Any]
    text_names: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """How many text tokens there are."""
        return int(self.arguments[self.text_names[0]].shape[1])

    def of_tokens(self, tokens: Tensor | None, rows: tuple[int, ...] | None = None) -> dict[str, Any]:
        """The arguments with text tokens `[K]` only (None: all), for some rows of the batch (None: all)."""

        def selected(text: Tensor) -> Tensor:
            text = text if rows is None or len(text) == 1 else text[list(rows)]
            return text if tokens is None else text[:, tokens.to(text.device)]

        return {name: selected(value) if name in self.text_names else value for name, value in self.arguments.items()}


def text_arguments(
    original: Callable[..., Tensor], x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> TextArguments:
    """Of diffusers' and ComfyUI's cross-attentions. RegionStyleError for a mask over the text, and without a text."""
    call = inspect.signature(original).bind_partial(x, *args, **kwargs)
    kinds = {name: parameter.kind for name, parameter in call.signature.parameters.items()}
    arguments: dict[str, Any] = {}
    for name, value in list(call.arguments.items())[1:]:
        # A wrapper of another pack may take everything as it comes; what it got without a name is not known here.
        arguments.update(value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value})
    text_names = ("encoder_hidden_states", "context", "value")
    names = tuple(name for name in text_names if isinstance(arguments.get(name), Tensor))
    masked = next((name for name in ("attention_mask", "mask") if arguments.get(name) is not None), None)
    if masked or not names:
        got = "an attention mask over the text" if masked else "no text"
        raise wrong_input("cross-attention", got, "a text without one", "Switch the isolation of prompts off.")
    return TextArguments(arguments, names)


def attend_visible(
    visible: Tensor, positive: Tensor, original: Callable[..., Tensor], x: Tensor, text: TextArguments
) -> Tensor:
    """The attention of x `[B,N,C]` in which rows of the positive prompt attend to the visible tokens only.

    visible: indices `[K]` of text tokens; positive: bool `[B]` on the CPU.
    """
    if bool(positive.all()):
        return original(x, **text.of_tokens(visible))
    groups = [(tuple(rows.nonzero().squeeze(1).tolist()), tokens)
              for rows, tokens in ((positive, visible), (~positive, None))]  # fmt: skip
    outputs = [original(x[list(rows)], **text.of_tokens(tokens, rows)) for rows, tokens in groups]
    order = torch.tensor([row for rows, _ in groups for row in rows]).argsort().to(x.device)
    return torch.cat(outputs)[order]
