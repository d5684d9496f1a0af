"""What lives in the miniature world, and what each dataset calls it.

Every name is a subset of the class list of the dataset that it stands for, so the parsers, metrics and
class lists made for the real data apply unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """A sounding object: one shape, one colour, one timbre.

    Args:
        name: Noun used in reasoning, S4, MS3, Ref-AVS and ARIG.
        colour: Colour word.
        rgb: Fill colour.
        verb: What it does when it sounds, third person.
        instrument: True for the categories that MUSIC-AVQA may ask about.
        ave: AVE class name.
        llp: LLP class name.
        music: MUSIC-AVQA answer; empty for what is no instrument.
        unav: UnAV-100 class name.
    """

    name: str
    colour: str
    rgb: tuple[int, int, int]
    verb: str
    instrument: bool
    ave: str
    llp: str
    music: str
    unav: str


CATEGORIES: tuple[Category, ...] = (
    Category(
        "violin",
        "red",
        (220, 30, 30),
        "plays",
        True,
        "Violin, fiddle",
        "Violin_fiddle",
        "violin",
        "playing violin",
    ),
    Category(
        "guitar",
        "orange",
        (250, 140, 20),
        "plays",
        True,
        "Acoustic guitar",
        "Acoustic_guitar",
        "acoustic_guitar",
        "playing acoustic guitar",
    ),
    Category(
        "accordion",
        "green",
        (30, 160, 50),
        "plays",
        True,
        "Accordion",
        "Accordion",
        "accordion",
        "playing accordion",
    ),
    Category("banjo", "yellow", (250, 220, 30), "plays", True, "Banjo", "Banjo", "banjo", "playing banjo"),
    Category("dog", "blue", (40, 80, 230), "barks", False, "Bark", "Dog", "", "dog barking"),
    Category("cat", "pink", (245, 70, 190), "meows", False, "Cat", "Cat", "", "cat meowing"),
    Category(
        "helicopter", "cyan", (20, 200, 215), "flies", False, "Helicopter", "Helicopter", "", "helicopter"
    ),
    Category(
        "motorcycle",
        "black",
        (30, 30, 36),
        "roars",
        False,
        "Motorcycle",
        "Motorcycle",
        "",
        "driving motorcycle",
    ),
)
"""Index order is the category index used everywhere in the room."""

INSTRUMENTS: tuple[int, ...] = tuple(i for i, c in enumerate(CATEGORIES) if c.instrument)

EMOTIONS: tuple[str, ...] = ("neutral", "happiness", "surprise", "fear", "anger", "sadness")

EMOTION_CUES: dict[str, tuple[str, str]] = {
    "neutral": ("calm", "slow"),
    "happiness": ("calm", "lively"),
    "surprise": ("open", "lively"),
    "fear": ("open", "harsh"),
    "anger": ("frown", "harsh"),
    "sadness": ("frown", "slow"),
}
"""Emotion -> (face, voice). Each cue belongs to two emotions, so one cue alone is half right."""

EMOTION_WORDS: dict[str, dict[str, str]] = {
    "meld": {e: {"happiness": "joy"}.get(e, e) for e in EMOTIONS},
    "cremad": {e: e for e in EMOTIONS if e != "surprise"},
    "dfew": {e: e for e in EMOTIONS},
    "mafw": {e: e for e in EMOTIONS},
    "mer24": {
        "neutral": "neutral",
        "happiness": "happy",
        "surprise": "surprise",
        "fear": "worried",
        "anger": "angry",
        "sadness": "sad",
    },
}
"""Dataset -> emotion -> the dataset's own word."""

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
"""Dataset -> class -> (look, sound). A ring: each look and each sound belongs to two neighbours."""

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
"""Look of an action -> its description."""

ACTION_SOUNDS: dict[str, str] = {"tune": "a tune", "taps": "taps", "hiss": "a hiss", "buzz": "a buzz"}
FACES: dict[str, str] = {
    "calm": "a calm face",
    "open": "a face with an open mouth",
    "frown": "a face with a frown",
}
VOICES: dict[str, str] = {
    "slow": "a slow low voice",
    "lively": "a lively high voice",
    "harsh": "a harsh loud voice",
}

PLACES: tuple[str, ...] = ("left", "middle", "right")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four")
