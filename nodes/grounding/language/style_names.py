"""Names of styles: a lexicon to recognise them by, and the clean-up of what people write around them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

# Other ways people write a style's name -> the name.
ALIASES = {
    "pixel": "pixel art",
    "pixelated": "pixel art",
    "pixelart": "pixel art",
    "8-bit": "pixel art",
    "pencil": "pencil sketch",
    "sketch": "pencil sketch",
    "sketched": "pencil sketch",
    "drawing": "pencil sketch",
    "half-tone": "halftone",
    "newspaper": "halftone",
    "posterized": "posterised",
    "poster": "posterised",
    "posterise": "posterised",
    "posterize": "posterised",
    "oil": "oil paint",
    "oil painting": "oil paint",
    "oil-paint": "oil paint",
    "tiles": "mosaic",
    "tiled": "mosaic",
    "water color": "watercolor",
    "watercolour": "watercolor",
    "water colour": "watercolor",
    "glowing neon": "neon",
}
_MOVEMENTS = """
abstract, abstract expressionism, academicism, art brut, art deco, art nouveau, arts and crafts, baroque, bauhaus,
brutalism, byzantine, chiaroscuro, classicism, color field, conceptual art, constructivism, constructivist, cubism,
cubist, dada, dadaism, de stijl, expressionism, expressionist, fauvism, fauvist, folk art, futurism, futurist,
geometric abstraction, gothic, graffiti, hyperrealism, hyperrealistic, impressionism, impressionist, japonism, kitsch,
lowbrow, magic realism, mannerism, metaphysical art, minimalism, minimalist, modernism, naive art, neoclassicism,
neo impressionism, op art, photorealism, photorealistic, pointillism, pointillist, pop art, post impressionism,
postmodernism, precisionism, pre raphaelite, primitivism, realism, realistic, regionalism, renaissance, rococo,
romanticism, social realism, street art, suprematism, surrealism, surrealist, symbolism, tonalism, ukiyo e
"""
_MEDIA = """
3d render, acrylic, airbrush, aquarelle, aquatint, ballpoint pen, batik, blueprint, calligraphy, chalk, charcoal,
claymation, collage, colored pencil, comic, comic book, crayon, crochet, cross hatching, cross stitch, cut paper,
cyanotype, daguerreotype, double exposure, drypoint, duotone, embroidered, embroidery, enamel, encaustic, engraving,
etching, felt, film noir, finger paint, fresco, glitch, glitch art, gouache, halftone, illuminated manuscript, ink,
ink wash, kirigami, knitted, lego, line art, line drawing, linocut, lithograph, lithography, low poly, manga, marker,
mezzotint, mosaic, needlepoint, neon, oil, oil paint, oil painting, oil pastel, origami, papercut, paper cut,
paper mache, papier mache, pastel, patchwork, pen and ink, pencil, pencil drawing, pencil sketch, pixel art, pixelated,
plasticine, polaroid, pop up book, porcelain, poster, posterized, quilt, quilted, risograph, sand art, screen print,
scratchboard, sepia, silhouette, silkscreen, sketch, spray paint, stained glass, stencil, sumi e, tapestry, tempera,
terrazzo, tilt shift, vector, vector art, voxel, voxel art, watercolor, woodblock, woodblock print, woodcut, wireframe
"""
_LOOKS = """
1920s, 1930s, 1940s, 1950s, 1960s, 1970s, 1980s, 1990s, 16 bit, 8 bit, anime, antique, atompunk, autumn, biopunk,
black and white, bronze, cartoon, cartoonish, chibi, christmas, cosmic, cottagecore, crystal, cyberpunk, dark fantasy,
dieselpunk, disney, dreamlike, dystopian, fairy tale, fantasy, fiery, flat design, frozen, frosted, futuristic, ghibli,
glowing, gold, golden, gothic horror, grayscale, grunge, halloween, holographic, icy, iridescent, isometric, kawaii,
lofi, marble, medieval, metallic, monochrome, noir, pastel goth, pixar, psychedelic, retro, retrofuturism, rustic,
rusty, sci fi, silver, snowy, solarpunk, steampunk, studio ghibli, synthwave, technicolor, tribal, tron, vaporwave,
victorian, vintage, wooden, y2k
"""
_WORKS = {
    "van gogh": ("starry night", "the starry night", "sunflowers", "wheatfield with crows"),
    "monet": ("water lilies", "impression sunrise"),
    "munch": ("the scream",),
    "hokusai": ("the great wave", "the great wave off kanagawa"),
    "klimt": ("the kiss",),
    "vermeer": ("girl with a pearl earring",),
    "leonardo da vinci": ("mona lisa",),
    "picasso": ("guernica",),
    "dali": ("the persistence of memory",),
    "botticelli": ("the birth of venus",),
    "rembrandt": ("the night watch",),
    "seurat": ("a sunday afternoon",),
    "hopper": ("nighthawks",),
    "kandinsky": ("composition viii",),
    "mondrian": ("broadway boogie woogie",),
    "warhol": ("campbell's soup cans",),
}
_MORE_ARTISTS = (
    "vincent van gogh, claude monet, pablo picasso, salvador dali, edvard munch, gustav klimt, cezanne, "
    "matisse, chagall, degas, renoir, turner, caravaggio, escher, banksy, basquiat, lichtenstein, pollock"
)
# A final word that says "this was a style" and is no part of its name.
STYLE_ENDINGS = frozenset({"style", "look", "effect", "theme", "aesthetic"})
# A final word that makes the words before it a style and belongs to its name.
_STYLE_NOUNS = (
    "art artwork cartoon collage drawing engraving etching illustration painting poster print rendering render sketch "
    "mosaic sculpture statue tapestry texture"
)
STYLE_NOUNS = frozenset(_STYLE_NOUNS.split())
LONGEST_NAME = 32  # words of a style's name


def key(words: str) -> str:
    """One spelling for all: lower case, no hyphens, American endings."""
    words = " ".join(words.lower().replace("-", " ").split())
    for written, plain in (
        ("colour", "color"),
        ("grey", "gray"),
        ("water color", "watercolor"),
        ("posteris", "posteriz"),
    ):
        words = words.replace(written, plain)
    return words


@cache
def lexicon() -> frozenset[str]:
    """Every style name that is known without being told, by `key`."""
    plain = ",".join((_MOVEMENTS, _MEDIA, _LOOKS, _MORE_ARTISTS)).split(",")
    works = [name for artist, titles in _WORKS.items() for t in titles for name in (artist, t, f"{t} by {artist}")]
    full = [f"{title} by vincent van gogh" for title in _WORKS["van gogh"]]
    return frozenset(key(name) for name in (*plain, *works, *full))


def all_names(styles: Sequence[str] | None) -> frozenset[str]:
    """The lexicon, and with a list of styles also these and their aliases."""
    return lexicon() if styles is None else lexicon() | {key(name) for name in (*styles, *ALIASES)}


def is_quoted(word: str) -> bool:
    """Whether a word stands for a quoted string (`prompt.py` puts one private-use character in its place)."""
    return len(word) == 1 and 0xE000 <= ord(word) <= 0xF8FF


def ends_as_style(words: str) -> bool:
    """Whether the last word alone says that these words are a style."""
    last = words.lower().split()[-1:]
    return bool(last) and (last[0] in STYLE_ENDINGS or last[0] in STYLE_NOUNS or is_quoted(last[0]))


def style_at_end(words: Sequence[str], names: Iterable[str]) -> int:
    """How many of the last words are a known style, the longest one that leaves a word before it; 0: none.

    A noun such as "painting" after the name belongs to it.
    """
    names = names if isinstance(names, frozenset) else frozenset(names)
    if words and is_quoted(words[-1]):
        return 1
    for split in range(max(1, len(words) - LONGEST_NAME), len(words)):
        tail = words[split:]
        if key(" ".join(tail)) in names:
            return len(tail)
        if len(tail) > 1 and tail[-1].lower() in STYLE_NOUNS and key(" ".join(tail[:-1])) in names:
            return len(tail)
    return 0


@lru_cache(maxsize=4096)
def clean_style(words: str) -> str:
    """A style's words without what is said around them ("in the style of", an article, a final "style")."""
    words = words.strip(" ,.!?")
    words = re.sub(r"^(?:(?:an?|the)\s+)?(?:style|look|manner|theme)\s+of\s+", "", words, flags=re.IGNORECASE)
    words = re.sub(r"^(?:(?:an?|the)\s+)?style\s+(?=\S)|^(?:an?|the)\s+(?=\S)", "", words, flags=re.IGNORECASE)
    ending = "|".join(sorted(STYLE_ENDINGS))
    return re.sub(rf"(?<=\S)\s+(?:{ending})$", "", words, flags=re.IGNORECASE).strip(" ,'\"")


def normal_style(words: str, styles: Sequence[str] | None = None) -> str:
    """A style's name in lower case, cleaned; aliases resolved, hyphens where the names have them."""
    words = clean_style(words).lower()
    for spelling in (words, words.replace("-", " ")):
        if spelling in ALIASES or spelling in (styles or ()):
            return ALIASES.get(spelling, spelling)
    return words
