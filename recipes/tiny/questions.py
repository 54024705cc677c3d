"""Conversations about a scene: one long description and some short questions, all exactly true.

The wording is drawn at random, so that the output distribution of a model trained on it is not
degenerate.
"""

import random
from dataclasses import dataclass
from typing import Literal

from recipes.tiny.scenes import NUMBERS, PLACES, Item, Scene, Sign, Thing, things

MAX_WORDS = 120  # a longer description leaves out the meaning of its last things

DESCRIBE = (
    "Describe the picture in detail.",
    "Describe this image in detail and explain each thing.",
    "What do you see in the picture? Explain everything.",
    "Tell me everything about this picture.",
    "Please write a full description of the image.",
    "What is in the picture, where is it, and what is it?",
)


@dataclass(frozen=True)
class Turn:
    """A question, its answer, "long" or "short", and the strings a correct answer must contain."""

    question: str
    answer: str
    kind: Literal["long", "short"]
    facts: tuple[str, ...] = ()


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def at(place: int) -> str:
    """The place with its preposition: "at the top left", "in the center"."""
    return "in the center" if PLACES[place] == "center" else f"at the {PLACES[place]}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def meaning(thing: Thing, rng: random.Random) -> str:
    """A sentence with the thing's gloss."""
    form = rng.choice(
        (
            "{A} is {gloss}.",
            "By definition, {a} is {gloss}.",
            "The dictionary says that {a} is {gloss}.",
            "The word {name} means {gloss}.",
        )
    )
    return form.format(a=thing.a, A=_sentence(thing.a), name=thing.name, gloss=thing.gloss)


def _placed(item: Item, rng: random.Random) -> str:
    form = rng.choice(
        (
            "{At} there {be} {phrase} on a {color} {shape}.",
            "{At} we find {phrase} on a {color} {shape}.",
            "{Phrase} can be seen {at}, on a {color} {shape}.",
            "There {be} {phrase} {at}, and the {shape} behind {it} is {color}.",
        )
    )
    one = item.count == 1
    return form.format(
        at=at(item.place),
        At=_sentence(at(item.place)),
        be="is" if one else "are",
        it="it" if one else "them",
        phrase=item.phrase,
        Phrase=_sentence(item.phrase),
        color=item.color,
        shape=item.shape,
    )


def _signed(sign: Sign, rng: random.Random) -> str:
    form = rng.choice(
        (
            "{At} there is a sign with the word {word}.",
            "A sign {at} reads {word}.",
            "The word {word} is written on a sign {at}.",
        )
    )
    return form.format(at=at(sign.place), At=_sentence(at(sign.place)), word=sign.word)


def describe(scene: Scene, rng: random.Random) -> str:
    """A description of the whole scene, 60 to 120 words in most cases."""
    names = [i.thing.name if i.count == 1 else i.thing.plural for i in scene.items]
    places = NUMBERS[len(scene.items)]
    opening = rng.choice(
        (
            f"The picture shows {places} different things on a {scene.background} background.",
            f"This is a drawing with {places} kinds of things on a {scene.background} background.",
            f"In this picture I can see {_join([i.phrase for i in scene.items])}.",
            f"The background of the picture is {scene.background}, and {places} kinds of things "
            "are in front of it.",
        )
    )
    parts: list[Item | Sign] = [*scene.items, *([scene.sign] if scene.sign else [])]
    parts.sort(key=lambda part: part.place)
    placed = [_signed(p, rng) if isinstance(p, Sign) else _placed(p, rng) for p in parts]
    empty = NUMBERS[9 - len(parts)]
    closing = rng.choice(
        (
            f"The other {empty} places are empty.",
            "Nothing else is in the picture.",
            f"Apart from the {_join(names)}, the picture is empty.",
            "" if scene.sign else "There is no sign in the picture.",
        )
    )
    meanings = {p.place: meaning(p.thing, rng) for p in parts if isinstance(p, Item)}
    words = sum(len(s.split()) for s in (opening, *placed, closing))
    for place, text in list(meanings.items()):
        words += len(text.split())
        if words > MAX_WORDS:
            del meanings[place]
    if rng.random() < 0.5:  # each meaning right after its thing, or all at the end
        body = [
            s
            for p, text in zip(parts, placed, strict=True)
            for s in (text, meanings.get(p.place, ""))
        ]
    else:
        body = [*placed, *meanings.values()]
    return " ".join(s for s in (opening, *body, closing) if s)


def _about_place(scene: Scene, rng: random.Random) -> Turn:
    filled = [p.place for p in (*scene.items, scene.sign) if p is not None]
    place = rng.choice(filled) if rng.random() < 0.8 else rng.randrange(len(PLACES))
    question = rng.choice(("What is {}?", "What do you see {}?", "Which thing is {}?"))
    part = scene.at(place)
    if part is None:
        answer, facts = f"There is nothing {at(place)}.", ("nothing",)
    elif isinstance(part, Sign):
        answer, facts = f"There is a sign with the word {part.word} {at(place)}.", (part.word,)
    else:
        be = "is" if part.count == 1 else "are"
        noun = part.thing.name if part.count == 1 else part.thing.plural
        answer, facts = f"There {be} {part.phrase} {at(place)}.", (noun,)
    return Turn(question.format(at(place)), answer, "short", facts)


def _about_color(scene: Scene, rng: random.Random) -> Turn:
    item = rng.choice(scene.items)
    noun = item.thing.name if item.count == 1 else item.thing.plural
    question = rng.choice(
        (f"What color is the {item.shape} behind the {noun}?", f"Which color is behind the {noun}?")
    )
    answer = f"The {item.shape} behind the {noun} is {item.color}."
    return Turn(question, answer, "short", (item.color,))


def _about_count(scene: Scene, rng: random.Random) -> Turn:
    if rng.random() < 0.25:
        thing = _absent(scene, rng)
        return Turn(
            f"How many {thing.plural} are there?",
            f"There are no {thing.plural}.",
            "short",
            (f"no {thing.plural}",),
        )
    item = rng.choice(scene.items)
    number = NUMBERS[item.count]
    if item.count == 1:
        answer = f"There is one {item.thing.name}."
    else:
        answer = f"There are {number} {item.thing.plural}."
    question = rng.choice(("How many {} are there?", "How many {} can you see?"))
    return Turn(question.format(item.thing.plural), answer, "short", (number,))


def _about_sign(scene: Scene, rng: random.Random) -> Turn:
    question = rng.choice(("What word is on the sign?", "What does the sign say?"))
    if scene.sign is None:
        return Turn(question, "There is no sign in the picture.", "short", ("no sign",))
    return Turn(question, f"The sign says {scene.sign.word}.", "short", (scene.sign.word,))


def _about_presence(scene: Scene, rng: random.Random) -> Turn:
    if rng.random() < 0.5:
        thing = _absent(scene, rng)
        return Turn(
            f"Is there {thing.a} in the picture?",
            f"No, there is no {thing.name} in the picture.",
            "short",
            ("No",),
        )
    item = rng.choice(scene.items)
    phrase = f"is {item.phrase}" if item.count == 1 else f"are {item.phrase}"
    return Turn(
        f"Is there {item.thing.a} in the picture?",
        f"Yes, there {phrase} {at(item.place)}.",
        "short",
        ("Yes",),
    )


def _about_where(scene: Scene, rng: random.Random) -> Turn:
    item = rng.choice(scene.items)
    one = item.count == 1
    noun, be = (item.thing.name, "is") if one else (item.thing.plural, "are")
    return Turn(
        f"Where {be} the {noun}?", f"The {noun} {be} {at(item.place)}.", "short", (at(item.place),)
    )


def _about_color_owner(scene: Scene, rng: random.Random) -> Turn:
    colors = [i.color for i in scene.items]
    item = rng.choice(scene.items)
    if colors.count(item.color) > 1:
        return _about_where(scene, rng)
    question = f"What is on the {item.color} {item.shape}?"
    noun = item.thing.name if item.count == 1 else item.thing.plural
    answer = f"{_sentence(item.phrase)} {'is' if item.count == 1 else 'are'} on it."
    return Turn(question, answer, "short", (noun,))


def about_meaning(thing: Thing, rng: random.Random) -> Turn:
    """A question that needs no image."""
    question = rng.choice(
        (
            f"What is {thing.a}?",
            f"What does the word {thing.name} mean?",
            f"Explain what {thing.a} is.",
        )
    )
    return Turn(question, meaning(thing, rng), "short", (thing.gloss,))


ABOUT = {
    "place": _about_place,
    "colour": _about_color,
    "count": _about_count,
    "sign": _about_sign,
    "presence": _about_presence,
    "where": _about_where,
    "owner": _about_color_owner,
}


def _absent(scene: Scene, rng: random.Random) -> Thing:
    present = {i.thing.index for i in scene.items}
    return rng.choice([t for t in things() if t.index not in present])


def long_turn(scene: Scene, rng: random.Random) -> Turn:
    """Ask for a description. Its facts: every noun, color and place, and the sign's word."""
    facts = [
        f
        for i in scene.items
        for f in ((i.thing.name if i.count == 1 else i.thing.plural), i.color, PLACES[i.place])
    ]
    if scene.sign:
        facts.append(scene.sign.word)
    return Turn(rng.choice(DESCRIBE), describe(scene, rng), "long", tuple(facts))


def conversation(scene: Scene, rng: random.Random) -> list[Turn]:
    """One long and two to four short turns about one image, in random order."""
    kinds = rng.sample(tuple(ABOUT), rng.choice((2, 3, 4)))
    turns = [ABOUT[kind](scene, rng) for kind in kinds]
    if rng.random() < 0.15:
        turns.append(about_meaning(rng.choice(scene.items).thing, rng))
    place = 0 if rng.random() < 0.5 else rng.randint(0, len(turns))
    turns.insert(place, long_turn(scene, rng))
    return turns


def text_only(rng: random.Random) -> list[Turn]:
    """Two to four questions without an image."""
    return [about_meaning(thing, rng) for thing in rng.sample(things(), rng.choice((2, 3, 4)))]
