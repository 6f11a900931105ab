"""What a shop writes about a rendered product: titles, descriptions and fields that name every attribute once or more.

No word of an attribute ever stands in a text for another reason: a filler sentence that says "solid" would lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.catalogs.rendered.attributes import SOLD, happens, pick
from engines.fields import NAMED_FIELDS

if TYPE_CHECKING:
    import numpy as np

NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "mug": (("mug", "mugs"), ("coffee mug", "coffee mugs")),
    "bowl": (("bowl", "bowls"), ("serving bowl", "serving bowls")),
    "teapot": (("teapot", "teapots"), ("tea pot", "tea pots")),
    "bottle": (("bottle", "bottles"), ("water bottle", "water bottles")),
    "vase": (("vase", "vases"), ("table vase", "table vases")),
    "lamp": (("lamp", "lamps"), ("table lamp", "table lamps")),
    "pillow": (("pillow", "pillows"), ("cushion", "cushions")),
    "chair": (("chair", "chairs"), ("dining chair", "dining chairs")),
    "t-shirt": (("t-shirt", "t-shirts"), ("tee", "tees")),
    "dress": (("dress", "dresses"), ("summer dress", "summer dresses")),
    "shorts": (("shorts", "shorts"),),
    "sock": (("sock", "socks"), ("crew sock", "crew socks")),
    "scarf": (("scarf", "scarves"), ("winter scarf", "winter scarves")),
    "cap": (("cap", "caps"), ("baseball cap", "baseball caps")),
    "sneaker": (("sneaker", "sneakers"), ("trainer", "trainers")),
    "watch": (("watch", "watches"), ("wrist watch", "wrist watches")),
    "umbrella": (("umbrella", "umbrellas"),),
    "backpack": (("backpack", "backpacks"), ("rucksack", "rucksacks")),
    "tote bag": (("tote bag", "tote bags"), ("shopper bag", "shopper bags")),
    "book": (("book", "books"), ("notebook", "notebooks")),
    "lantern": (("lantern", "lanterns"), ("paper lantern", "paper lanterns")),
}
"""Each kind's names, singular and plural, the usual one first."""

_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "color": {"grey": ("grey", "gray"), "purple": ("purple", "violet"), "red": ("red", "scarlet")},
    "pattern": {
        "solid": ("solid", "plain"),
        "striped": ("striped",),
        "dotted": ("dotted", "polka dot"),
        "checked": ("checked", "gingham"),
        "zigzag": ("zigzag", "chevron"),
        "floral": ("floral", "flower print"),
        "color-block": ("color-block", "colour-block"),
        "harlequin": ("harlequin", "diamond print"),
        "starry": ("starry", "star print"),
        "camouflage": ("camouflage", "camo"),
        "gradient": ("gradient", "ombre"),
    },
    "material": {
        "wool": ("wool", "knitted wool"),
        "ceramic": ("ceramic", "stoneware"),
        "wood": ("wood", "wooden"),
        "rattan": ("rattan", "wicker"),
        "metal": ("metal", "steel"),
    },
    "count": {
        "1": ("1 piece", "single piece", "sold singly"),
        "2": ("set of 2", "set of two", "pack of 2", "2-pack"),
        "3": ("set of 3", "set of three", "pack of 3", "3-pack"),
        "4": ("set of 4", "set of four", "pack of 4", "4-pack"),
    },
}

_USUAL = 0.8
"""Share of mentions that use the usual word where there are others."""

_TITLES = (
    "{brand} {line} {adjectives} {noun}",
    "{brand} {adjectives} {noun}",
    "{adjectives} {noun} {line} by {brand}",
    "{line} {noun}, {adjectives}",
    "{adjectives} {noun}",
    "{brand} {noun} {line} - {adjectives}",
)

_ADJECTIVE_ORDERS = (
    ("color", "pattern", "material"),
    ("pattern", "color", "material"),
    ("material", "color", "pattern"),
    ("color", "material", "pattern"),
)

_SENTENCES: dict[str, tuple[str, ...]] = {
    "color": ("The colour is {}.", "Comes in {}.", "This one is {}."),
    "pattern": ("The look is {}.", "The design is {}.", "Finished in a {} design."),
    "material": ("Made of {}.", "The material is {}.", "Crafted from {}."),
    "count": ("Sold as: {}.", "Contents: {}.", "In the box: {}."),
}

_FILLERS = (
    "A favourite for every day.",
    "Designed in our own studio.",
    "Easy to care for.",
    "A gift that people keep.",
    "Ships within two working days.",
    "Made to last for years.",
    "Tested by our team at home.",
    "Free returns within 30 days.",
    "Goes well with the rest of the collection.",
    "Comfortable, simple and practical.",
    "Our customers come back for it.",
    "Packed without plastic.",
    "A small pleasure at a fair price.",
    "Takes little room and asks for little care.",
)

_BRAND_STARTS = (
    "Vel",
    "Nor",
    "Tal",
    "Quo",
    "Bri",
    "Mar",
    "Sol",
    "Kes",
    "Lum",
    "Oru",
    "Fen",
    "Hal",
    "Dru",
    "Pel",
    "Wyn",
)
_BRAND_ENDS = ("dano", "vex", "mora", "thel", "zura", "lune", "pari", "teq", "holt", "niva", "bryn", "osto")
_LINES = (
    "Nova",
    "Arlo",
    "Tilda",
    "Pico",
    "Otto",
    "Luma",
    "Remy",
    "Kato",
    "Isla",
    "Milo",
    "Juno",
    "Enzo",
    "Vega",
    "Oslo",
)


@dataclass(frozen=True)
class Maker:
    """The invented brand of a group of variants, and the name of its line."""

    brand: str
    line: str

    @classmethod
    def invent(cls, rng: np.random.Generator) -> Maker:
        """Return one at random."""
        return cls(brand=pick(rng, _BRAND_STARTS) + pick(rng, _BRAND_ENDS), line=pick(rng, _LINES))


def words_for(attribute: str, value: str) -> tuple[str, ...]:
    """Return the words by which a text may name this value, the usual one first."""
    if attribute == "kind":
        return tuple(word for names in NOUNS[value] for word in names)
    return _WORDS[attribute].get(value, (value,))


def write_text(attributes: dict[str, str], maker: Maker, rng: np.random.Generator) -> dict[str, str]:
    """Return the text fields of a product, each attribute named in at least one of them."""
    in_title, in_field, in_description = _mentions(attributes, rng)
    texts = {
        "title": _title(attributes, in_title, maker, rng),
        "brand": maker.brand if happens(rng, 0.85) else "",
        "product_type": SOLD[attributes["kind"]].product_type,
        "description": _description(attributes, in_description, rng),
    }
    texts |= {name: _styled(_word(name, attributes[name], rng), rng) for name in in_field}
    return {name: texts[name] for name in NAMED_FIELDS if texts.get(name)}


def _mentions(attributes: dict[str, str], rng: np.random.Generator) -> tuple[list[str], list[str], list[str]]:
    """Return which attributes the title, the fields and the description name; none is left out of all three.

    Lists, not sets: the order of a set of strings differs from process to process, and with it what is drawn next.
    """
    odds = {"color": 0.85, "pattern": 0.65, "material": 0.6, "count": 0.25 if attributes["count"] == "1" else 0.75}
    in_title = [name for name, chance in odds.items() if happens(rng, chance)]
    in_field = [name for name in ("color", "pattern", "material") if happens(rng, 0.8)]
    in_description = [name for name in odds if happens(rng, 0.6 if name == "count" else 0.3)]
    for name in odds:
        if name not in (*in_title, *in_field, *in_description):
            (in_description if name == "count" else in_field).append(name)
    return in_title, in_field, in_description


def _title(attributes: dict[str, str], named: list[str], maker: Maker, rng: np.random.Generator) -> str:
    adjectives = [_word(name, attributes[name], rng) for name in pick(rng, _ADJECTIVE_ORDERS) if name in named]
    singular, plural = _noun(attributes["kind"], rng)
    title = pick(rng, _TITLES).format(
        brand=maker.brand,
        line=maker.line,
        adjectives=" ".join(adjectives),
        noun=singular if attributes["count"] == "1" else plural,
    )
    title = " ".join(title.split()).strip(" ,-")
    if "count" in named:
        quantity = _word("count", attributes["count"], rng)
        title = pick(rng, ("{title}, {quantity}", "{quantity}: {title}", "{title} ({quantity})")).format(
            title=title, quantity=quantity
        )
    return _styled(title, rng)


def _noun(kind: str, rng: np.random.Generator) -> tuple[str, str]:
    names = NOUNS[kind]
    return names[0] if happens(rng, _USUAL) else pick(rng, names)


def _description(attributes: dict[str, str], named: list[str], rng: np.random.Generator) -> str:
    facts = [
        pick(rng, templates).format(_word(name, attributes[name], rng))
        for name, templates in _SENTENCES.items()
        if name in named
    ]
    fillers = [_FILLERS[i] for i in rng.permutation(len(_FILLERS))[: int(rng.integers(0, 4))]]
    sentences = facts + fillers
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))


def _word(attribute: str, value: str, rng: np.random.Generator) -> str:
    words = words_for(attribute, value)
    return words[0] if happens(rng, _USUAL) else pick(rng, words)


def _styled(text: str, rng: np.random.Generator) -> str:
    """Return the text as one shop or another capitalises it."""
    return (
        " ".join(w[:1].upper() + w[1:] for w in text.split(" ")) if happens(rng, 0.5) else text[:1].upper() + text[1:]
    )
