"""Rebuild `assets/sprites.png` and `assets/objects.json` from their sources.

Not needed for training, since the results are in the repository. It needs the unpacked npm package
`openmoji` 17.0.0, the WordNet 3.0 noun files (Debian `wordnet-base`) and the package `resvg-py`:

    python -m recipes.tiny.build_assets --openmoji package --wordnet usr/share/wordnet

`assets/objects.txt` is written by hand: the drawings, and the WordNet sense of each name.
"""

import argparse
import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from recipes.tiny.paths import ASSETS
from recipes.tiny.scenes import COLUMNS, SPRITE_SIZE

MAX_GLOSS_WORDS = 16
NO_ARTICLE = {"a", "an", "any", "the", "two", "armor", "electronic", "hosiery", "neckwear",
              "public", "rescue", "steps"}  # fmt: skip
IRREGULAR_PLURALS = {
    "mouse": "mice",
    "sheep": "sheep",
    "snowman": "snowmen",
    "volcano": "volcanoes",
}


def plural(name: str) -> str:
    """The English plural of a name of `objects.txt`."""
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + ("es" if re.search(r"(s|x|ch|sh|ato)$", name) else "s")


def tidy(gloss: str) -> str:
    """A short WordNet gloss with an article, without examples and remarks."""
    gloss = re.split(r'[;:]\s*"', gloss)[0]
    gloss = re.sub(r"\s*\([^)]*\)", "", gloss).strip()
    parts = gloss.split(";")
    kept = parts[0].strip()
    for part in parts[1:]:
        if len(kept.split()) + len(part.split()) > MAX_GLOSS_WORDS:
            break
        kept += ", " + part.strip()
    first = kept.split()[0].lower()
    is_equipment = kept.startswith("equipment")
    if first in NO_ARTICLE or is_equipment:
        return kept
    return ("an " if first[0] in "aeiou" and first != "usually" else "a ") + kept


def read_wordnet(folder: Path) -> tuple[dict[str, list[str]], bytes]:
    """The offsets of every noun's senses in order, and the bytes of `data.noun` that they index."""
    senses: dict[str, list[str]] = {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            fields = line.split()
            senses[fields[0]] = fields[-int(fields[2]) :]
    return senses, (folder / "data.noun").read_bytes()


def drawing(svg: Path) -> Image.Image:
    """The drawing, cropped to its content and centered on a transparent square."""
    import resvg_py  # needed only here

    raw = resvg_py.svg_to_bytes(svg_path=str(svg), width=4 * SPRITE_SIZE)
    image = Image.open(io.BytesIO(bytes(raw))).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    scale = SPRITE_SIZE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    square.paste(image, ((SPRITE_SIZE - size[0]) // 2, (SPRITE_SIZE - size[1]) // 2))
    return square


def build(openmoji: Path, wordnet: Path) -> list[dict[str, Any]]:
    """Write the sprite atlas and the list of objects; return the list."""
    emoji: dict[str, dict[str, Any]] = {}
    for entry in json.loads((openmoji / "data/openmoji.json").read_text()):
        if not entry["skintone"] and "extras" not in entry["group"]:
            emoji.setdefault(entry["annotation"], entry)
    senses, data = read_wordnet(wordnet)
    objects, sprites = [], []
    for line in (ASSETS / "objects.txt").read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        name, sense, annotation, edit = (line.split("|") + ["", ""])[:4]
        entry = emoji[annotation or name]
        offset = senses[name.replace(" ", "_")][int(sense) - 1]
        record = data[int(offset) : data.index(b"\n", int(offset))].decode()
        gloss = record.split("|")[1].strip()
        if edit:
            old, new = edit.split(">")
            if old not in gloss:
                raise ValueError(f"{name}: wanted {old!r} in the gloss, got {gloss!r}")
            gloss = gloss.replace(old, new)
        objects.append(
            {
                "name": name,
                "plural": plural(name),
                "gloss": tidy(gloss),
                "code_point": entry["hexcode"],
                "drawn_by": entry["openmoji_author"],
                "synset": f"{offset}-n",
            }
        )
        sprites.append(drawing(openmoji / "color/svg" / f"{entry['hexcode']}.svg"))
    rows = -(-len(sprites) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * SPRITE_SIZE, rows * SPRITE_SIZE))
    for i, sprite in enumerate(sprites):
        atlas.paste(sprite, (i % COLUMNS * SPRITE_SIZE, i // COLUMNS * SPRITE_SIZE))
    # The drawings use few colors: with a palette of 256 the file has a third of the size.
    atlas = atlas.quantize(256, method=Image.Quantize.FASTOCTREE)
    atlas.save(ASSETS / "sprites.png", optimize=True)
    (ASSETS / "objects.json").write_text(json.dumps(objects, indent=1, ensure_ascii=False) + "\n")
    return objects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--openmoji", type=Path, required=True, help="the unpacked npm package")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun")
    args = parser.parse_args()
    for item in build(args.openmoji, args.wordnet):
        print(f"{item['name']} / {item['plural']}: {item['gloss']}")


if __name__ == "__main__":
    main()
