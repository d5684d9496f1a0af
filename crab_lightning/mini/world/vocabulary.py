"""The objects, emotions and actions of the synthetic world, and the words that each dataset uses for them.

All class names are among the classes of the real dataset that uses them. The parsers, metrics and class lists
for the real data therefore work without a change.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """A kind of object with its own shape, colour and sound.

    Args:
        name: Noun in the reasoning texts and in S4, MS3, Ref-AVS and ARIG.
        colour: Word for its colour.
        rgb: Its colour.
        verb: What it does when it sounds, in the third person.
        ave: Its class in AVE.
        llp: Its class in LLP.
        unav: Its class in UnAV-100.
        music: The answer in MUSIC-AVQA that names it; empty if it is no instrument.
    """

    name: str
    colour: str
    rgb: tuple[int, int, int]
    verb: str
    ave: str
    llp: str
    unav: str
    music: str = ""


_GUITAR = ("Acoustic guitar", "Acoustic_guitar", "playing acoustic guitar", "acoustic_guitar")
_VIOLIN = ("Violin, fiddle", "Violin_fiddle", "playing violin", "violin")

CATEGORIES: tuple[Category, ...] = (
    Category("violin", "red", (220, 30, 30), "plays", *_VIOLIN),
    Category("guitar", "orange", (250, 140, 20), "plays", *_GUITAR),
    Category(
        "accordion",
        "green",
        (30, 160, 50),
        "plays",
        "Accordion",
        "Accordion",
        "playing accordion",
        "accordion",
    ),
    Category("banjo", "yellow", (250, 220, 30), "plays", "Banjo", "Banjo", "playing banjo", "banjo"),
    Category("dog", "blue", (40, 80, 230), "barks", "Bark", "Dog", "dog barking"),
    Category("cat", "pink", (245, 70, 190), "meows", "Cat", "Cat", "cat meowing"),
    Category("helicopter", "cyan", (20, 200, 215), "flies", "Helicopter", "Helicopter", "helicopter"),
    Category("motorcycle", "black", (30, 30, 36), "roars", "Motorcycle", "Motorcycle", "driving motorcycle"),
)
"""The category index of an object is its place in this tuple."""

INSTRUMENTS: tuple[int, ...] = tuple(i for i, c in enumerate(CATEGORIES) if c.music)

EMOTIONS: tuple[str, ...] = ("neutral", "happiness", "surprise", "fear", "anger", "sadness")

EMOTION_CUES: dict[str, tuple[str, str]] = {
    "neutral": ("calm", "slow"),
    "happiness": ("calm", "lively"),
    "surprise": ("open", "lively"),
    "fear": ("open", "harsh"),
    "anger": ("frown", "harsh"),
    "sadness": ("frown", "slow"),
}
"""The face and the voice of each emotion.

Each face and each voice belongs to two emotions, so a model that reads only the face, or only the voice, is
right in half of the cases.
"""

EMOTION_WORDS: dict[str, dict[str, str]] = {
    "meld": {e: {"happiness": "joy"}.get(e, e) for e in EMOTIONS},
    "cremad": {e: e for e in EMOTIONS if e != "surprise"},
    "dfew": {e: e for e in EMOTIONS},
    "mafw": {e: e for e in EMOTIONS},
    "mer24": dict(zip(EMOTIONS, ("neutral", "happy", "surprise", "worried", "angry", "sad"), strict=True)),
}
"""The word of each dataset for each emotion."""

ACTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "ks": {
        "playing guitar": ("guitar", "tune"),
        "tapping guitar": ("guitar", "taps"),
        "tapping pen": ("stick", "taps"),
        "chopping wood": ("stick", "hiss"),
        "shoveling snow": ("box", "hiss"),
        "mowing lawn": ("box", "buzz"),
        "blowing nose": ("face", "buzz"),
        "singing": ("face", "tune"),
    },
    "ucf": {
        "BrushingTeeth": ("brush", "hiss"),
        "ShavingBeard": ("brush", "buzz"),
        "BlowDryHair": ("ball", "buzz"),
        "HeadMassage": ("ball", "tune"),
        "BandMarching": ("walker", "tune"),
        "HandstandWalking": ("walker", "taps"),
        "Hammering": ("hammer", "taps"),
        "MoppingFloor": ("hammer", "hiss"),
    },
}
"""The look and the sound of each action of a dataset. Each look and each sound belongs to two actions."""

LOOKS: dict[str, str] = {
    "guitar": "a guitar that shakes",
    "stick": "a stick that moves up and down",
    "box": "a box that moves left and right",
    "face": "a face that nods",
    "brush": "a brush that moves left and right",
    "ball": "a ball that moves in a circle",
    "walker": "a walker that moves left and right",
    "hammer": "a hammer that moves up and down",
}
"""The description of each look of an action."""

ACTION_SOUNDS: dict[str, str] = {"tune": "a tune", "taps": "taps", "hiss": "a hiss", "buzz": "a buzz"}
"""The description of each sound of an action."""

FACES: dict[str, str] = {
    "calm": "a calm face",
    "open": "a face with an open mouth",
    "frown": "a face with a frown",
}
"""The description of each look of a face."""

VOICES: dict[str, str] = {
    "slow": "a slow low voice",
    "lively": "a lively high voice",
    "harsh": "a harsh loud voice",
}
"""The description of each voice."""

PLACES: tuple[str, ...] = ("left", "middle", "right")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four")
