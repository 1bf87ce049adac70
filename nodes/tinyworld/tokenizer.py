"""The tiny world's tokenizer: CLIP's byte-pair format with a vocabulary of a few hundred entries.

Every word the world uses is one token; any other word falls apart into letters, as in every byte-pair code, so a
caller can tell whether a word is known. The two files have CLIP's own layout: transformers and ComfyUI read them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .world import vocabulary

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
FOLDER = Path(__file__).parent / "weights" / "tokenizer"


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes of the GPT-2 and CLIP byte-pair code, in its order."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(len(rest))]


def _apply(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair merging of one word: always the known pair of lowest rank."""
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:], strict=False)) if pair in ranks]
        if not pairs:
            return parts
        index = min(pairs)[1]
        parts = [*parts[:index], parts[index] + parts[index + 1], *parts[index + 2 :]]


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges that build each word whole.

    A word is first merged by the rules so far; only what is left over gets new rules, of lower rank. Earlier words
    therefore keep their single token.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        parts = _apply([*word[:-1], word[-1] + "</w>"], ranks)
        while len(parts) > 1:
            ranks.setdefault((parts[0], parts[1]), len(ranks))
            parts = _apply(parts, ranks)
    return list(ranks)


def write_tokenizer(folder: Path = FOLDER) -> None:
    """Write `vocab.json`, `merges.txt` and `tokenizer_config.json` for the world's words."""
    letters = _byte_letters()
    merges = _merges(vocabulary())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m) for m in merges), START, END]
    ids = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "model_max_length": 77,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path = FOLDER) -> CLIPTokenizer:
    """The tokenizer of the shipped vocabulary; `tokenizer(texts, padding="max_length")` gives ids `[B,77]`."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder))


def known(word: str) -> bool:
    """Whether a word is one token of the world."""
    return word.lower() in vocabulary()
