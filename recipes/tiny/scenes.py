"""Images of named things on colored tiles, and the facts in them; a pure function of a seed.

A scene is a 3 x 3 grid of places on a pale background. Two to four places hold one thing (large
or small) or two to four small ones on a square tile or a round disc; one more place may hold
a sign with a word. Every fact of the scene is in `Scene`, so questions can be answered exactly.

Some pairs (object, tile color) are *reserved*: no training scene has one, every held-out scene
has at least one.
"""

import json
import random
from dataclasses import dataclass
from functools import cache, lru_cache

from PIL import Image, ImageDraw, ImageFont

from recipes.tiny.paths import ASSETS

CANVAS = 160
MARGIN = 8
PITCH = 48  # a multiple of the patch size, so that the tower sees all places alike
TILE = 46
SPRITE_SIZE = 96
COLUMNS = 12
HELD_OUT_SEEDS = 1 << 40  # training seeds lie below, held-out seeds at or above

PLACES = (
    "top left",
    "top middle",
    "top right",
    "middle left",
    "center",
    "middle right",
    "bottom left",
    "bottom middle",
    "bottom right",
)
TILE_COLORS = {
    "red": (231, 76, 60),
    "orange": (245, 158, 66),
    "yellow": (247, 220, 82),
    "green": (88, 190, 110),
    "blue": (84, 153, 235),
    "purple": (160, 108, 213),
    "pink": (248, 165, 205),
    "gray": (150, 156, 164),
}
BACKGROUNDS = {"white": (255, 255, 255), "beige": (245, 236, 215), "light blue": (222, 239, 250)}
WORDS = (
    "OPEN", "STOP", "EXIT", "SALE", "HELLO", "MUSIC", "PARK", "ZOO",
    "CAFE", "FARM", "SHOP", "NEWS", "HOME", "MENU",
)  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Sizes of drawings in pixels, and for a group of n the centers of its drawings within the tile.
SINGLE = {"large": 40, "small": 24}
GROUP_SIZE = 20
GROUPS = {
    2: ((12, 23), (34, 23)),
    3: ((23, 12), (12, 34), (34, 34)),
    4: ((12, 12), (34, 12), (12, 34), (34, 34)),
}


@dataclass(frozen=True)
class Thing:
    """A kind of thing. `gloss` is from WordNet, `code_point` is that of the OpenMoji drawing."""

    index: int
    name: str
    plural: str
    gloss: str
    code_point: str
    drawn_by: str
    synset: str

    @property
    def a(self) -> str:
        """The name with its article."""
        return ("an " if self.name[0] in "aeiou" else "a ") + self.name


@dataclass(frozen=True)
class Item:
    """The content of a place: `count` drawings of `thing`. A group (count > 1) is always small."""

    thing: Thing
    place: int
    count: int
    size: str
    color: str
    shape: str

    @property
    def phrase(self) -> str:
        """Number, size and name: "a large dog", "three small apples"."""
        if self.count == 1:
            return f"a {self.size} {self.thing.name}"
        return f"{NUMBERS[self.count]} {self.size} {self.thing.plural}"


@dataclass(frozen=True)
class Sign:
    """A written word at a place."""

    word: str
    place: int


@dataclass(frozen=True)
class Scene:
    """All facts of one image; items are in reading order."""

    seed: int
    background: str
    items: tuple[Item, ...]
    sign: Sign | None

    def at(self, place: int) -> Item | Sign | None:
        """What is at a place (index into `PLACES`)."""
        for part in (*self.items, self.sign):
            if part is not None and part.place == place:
                return part
        return None


@cache
def things() -> tuple[Thing, ...]:
    """All things, in the order of the sprite atlas."""
    records = json.loads((ASSETS / "objects.json").read_text(encoding="utf-8"))
    return tuple(Thing(index=i, **record) for i, record in enumerate(records))


def is_reserved(thing: Thing, color: str) -> bool:
    """Whether this pair is kept out of training scenes (about one in twenty)."""
    return (13 * thing.index + 5 * tuple(TILE_COLORS).index(color)) % 21 == 0


def _try_scene(seed: int, rng: random.Random, crowded: bool) -> Scene:
    count = rng.choice((6, 7, 8)) if crowded else rng.choices((2, 3, 4), (40, 45, 15))[0]
    places = rng.sample(range(len(PLACES)), count + 1)
    items = []
    for place, thing in zip(sorted(places[:count]), rng.sample(things(), count), strict=True):
        number = rng.choices((1, 2, 3, 4), (64, 12, 12, 12))[0]
        items.append(
            Item(
                thing=thing,
                place=place,
                count=number,
                size=rng.choice(("large", "small")) if number == 1 else "small",
                color=rng.choice(tuple(TILE_COLORS)),
                shape=rng.choice(("tile", "disc")),
            )
        )
    signed = crowded or rng.random() < 0.45
    sign = Sign(rng.choice(WORDS), places[count]) if signed else None
    return Scene(seed, rng.choice(tuple(BACKGROUNDS)), tuple(items), sign)


def make_scene(seed: int, crowded: bool = False) -> Scene:
    """The scene of a seed. Seeds from `HELD_OUT_SEEDS` on give scenes with a reserved pair.

    A crowded scene has six to eight things and a sign, so that each image has more labels.
    """
    rng = random.Random(f"hivis scene {seed}")
    held_out = seed >= HELD_OUT_SEEDS
    while True:
        scene = _try_scene(seed, rng, crowded)
        if held_out == any(is_reserved(i.thing, i.color) for i in scene.items):
            return scene


@lru_cache(maxsize=1024)
def sprite(index: int, size: int) -> Image.Image:
    """The drawing of a thing, RGBA, `size` pixels square."""
    x, y = index % COLUMNS * SPRITE_SIZE, index // COLUMNS * SPRITE_SIZE
    drawing = _atlas().crop((x, y, x + SPRITE_SIZE, y + SPRITE_SIZE))
    return drawing.resize((size, size), Image.Resampling.LANCZOS)


@cache
def _atlas() -> Image.Image:
    return Image.open(ASSETS / "sprites.png").convert("RGBA")


@lru_cache(maxsize=64)
def _backing(color: str, shape: str) -> Image.Image:
    """A tile or disc, drawn large and scaled down so that its edge is smooth."""
    big = Image.new("RGBA", (4 * TILE, 4 * TILE))
    draw = ImageDraw.Draw(big)
    box = (0, 0, 4 * TILE - 1, 4 * TILE - 1)
    if shape == "disc":
        draw.ellipse(box, fill=TILE_COLORS[color])
    else:
        draw.rounded_rectangle(box, radius=24, fill=TILE_COLORS[color])
    return big.resize((TILE, TILE), Image.Resampling.LANCZOS)


@lru_cache(maxsize=32)
def _sign(word: str) -> Image.Image:
    board = Image.new("RGBA", (TILE, TILE))
    draw = ImageDraw.Draw(board)
    draw.rectangle((21, 28, 24, 45), fill=(110, 80, 50))
    draw.rounded_rectangle(
        (0, 8, TILE - 1, 29), radius=3, fill=(255, 252, 240), outline=(60, 60, 60), width=1
    )
    font = ImageFont.load_default(13)
    draw.text((TILE / 2, 19), word, font=font, fill=(20, 20, 20), anchor="mm")
    return board


def draw_scene(scene: Scene) -> Image.Image:
    """The image, RGB, `CANVAS` pixels square. Drawings are shifted by up to two pixels."""
    rng = random.Random(f"hivis picture {scene.seed}")  # another string would change all images
    canvas = Image.new("RGB", (CANVAS, CANVAS), BACKGROUNDS[scene.background])
    for part in (*scene.items, scene.sign):
        if part is None:
            continue
        x = MARGIN + part.place % 3 * PITCH + rng.randint(0, 2)
        y = MARGIN + part.place // 3 * PITCH + rng.randint(0, 2)
        if isinstance(part, Sign):
            board = _sign(part.word)
            canvas.paste(board, (x, y), board)
            continue
        backing = _backing(part.color, part.shape)
        canvas.paste(backing, (x, y), backing)
        centers: tuple[tuple[int, int], ...]
        if part.count == 1:
            size, centers = SINGLE[part.size], ((TILE // 2, TILE // 2),)
        else:
            size, centers = GROUP_SIZE, GROUPS[part.count]
        for cx, cy in centers:
            drawing = sprite(part.thing.index, size)
            shift = 1 if size == GROUP_SIZE else 2
            left = x + cx - size // 2 + rng.randint(-shift, shift)
            top = y + cy - size // 2 + rng.randint(-shift, shift)
            canvas.paste(drawing, (left, top), drawing)
    return canvas
