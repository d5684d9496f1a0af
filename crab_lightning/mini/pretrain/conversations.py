"""The kinds of conversations about scenes of the synthetic world from which the mini base model learns.

The scenes are drawn like those of Mini AV-UIE, from another seed. The questions are not those of its 19 task
files. The base model learns to tell what is seen and heard, where and when, and to give its answer plainly,
in tags or after another answer. The adapters learn the tasks, as they do on a published base model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crab_lightning.media import apply_window
from crab_lightning.mini.pretrain.dialogue import numbers, relate, turns
from crab_lightning.mini.pretrain.texts import call, choose, conclude, copy, match, random_item, recall
from crab_lightning.mini.pretrain.towers import noise, roughen
from crab_lightning.mini.world.describe import (
    QA,
    describe,
    describe_audio,
    describe_moment,
    describe_pair,
    describe_picture,
)
from crab_lightning.mini.world.item import FPS
from crab_lightning.mini.world.phrases import at, box_text, name, see_places, spans
from crab_lightning.mini.world.render import box_of, render_audio, render_frames, render_masks
from crab_lightning.mini.world.scenes import Rng, Scene, Spans, pick, place_objects, random_scene
from crab_lightning.mini.world.sprites import BACKGROUNDS
from crab_lightning.mini.world.vocabulary import CATEGORIES
from crab_lightning.structures import AudioWindow, Example, Media, Sample

_TENTHS = AudioWindow("units", units=10)
_WITH_VIDEO = ("dfew", "meld", "mafw", "cremad", "mer24", "ks", "ucf", "ave", "unav", "avvp")
_STRIDED = AudioWindow("strided", units=60, every=6, before=0.5, after=1.5)
_FIRST_4_S = AudioWindow("head", head_s=4.0)


def clip_frames(scene: Scene, count: int) -> NDArray[np.uint8]:
    """Render the frames that would be sampled from the written clip, uint8 ``(F, H, W, 3)``."""
    total = scene.duration_s * FPS
    return render_frames(scene, [float(i) / FPS for i in np.round(np.linspace(0, total - 1, count))])


class Draft:
    """Collects the media and the questions of one training example.

    Args:
        rng: Makes all random choices.
    """

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.media: list[Media] = []
        self.kinds: dict[str, Any] = {"videos": [], "images": [], "audios": [], "seconds_per_grid": []}
        self.questions: list[QA] = []
        self.plain = False
        """Whether the questions are put as they are, without tags, options or another question."""

    def show(self, *scenes: Scene, frames: int = 10) -> None:
        """Add one video in which the scenes follow one another, with ``frames`` frames of each."""
        self.media.append(Media.VIDEO)
        pixels = np.concatenate([clip_frames(s, frames) for s in scenes])
        self.kinds["videos"].append(roughen(pixels, self.rng))
        self.kinds["seconds_per_grid"].append(2.0)

    def picture(self, scene: Scene, time_s: float) -> None:
        """Add the frame of a scene at a time as a picture."""
        self.media.append(Media.IMAGE)
        self.kinds["images"].append(roughen(render_frames(scene, [time_s]), self.rng)[0])

    def play(self, *scenes: Scene, window: AudioWindow = _TENTHS, unit: int | None = None) -> None:
        """Add one sound in which the scenes follow one another, each cut by the window."""
        self.media.append(Media.AUDIO)
        waves = [apply_window(torch.from_numpy(render_audio(s)), window, unit) for s in scenes]
        wave = torch.cat(waves)
        self.kinds["audios"].append(wave + 3e-4 * torch.from_numpy(noise(self.rng, len(wave))))

    def example(self, kind: str, most: int, lists: int) -> tuple[Example, list[QA]]:
        """Return the example with its first question and answer, and up to ``most - 1`` further pairs."""
        if self.rng.random() < 0.5:
            self.media.reverse()
        asked = self.questions
        if self.plain:
            asked = asked[:most]
        elif self.media:
            asked = turns(asked + lists * _listings(asked), self.rng, most)
        (question, answer), *rest = asked
        sample = Sample(f"pretrain/{kind}", kind, "describe", "train", kind)
        return Example(sample, (*self.media, question), answer, **self.kinds), rest


Drafter = Callable[[Draft, int], None]

_LISTINGS = (
    "What is seen and when",
    "What is heard and when",
    "Give all times",
    "What do the two",
    "Compare the",
)


def _listings(questions: Sequence[QA]) -> list[QA]:
    """Return the questions whose answer lists everything in order; other answers follow from such a list."""
    return [qa for qa in questions if qa[0].startswith(_LISTINGS)]


def _picture(draft: Draft, seed: int) -> None:
    rng = draft.rng
    if rng.random() < 0.25:  # faces and tools
        scene = random_item(rng, seed, "dfew", "meld", "mafw", "cremad", "mer24", "ks", "ucf").videos[0]
    else:
        scene = random_scene(rng, 4)
    moment = float(rng.integers(scene.duration_s)) + 0.5
    draft.picture(scene, moment)
    draft.questions = describe_picture(scene, moment, rng)


def _spot(draft: Draft, seed: int) -> None:
    """Draft a picture of few things and questions about where each one is, or whether it is there at all."""
    rng = draft.rng
    count = pick(rng, (1, 2, 3, 3))
    drawn, absent = np.split(rng.permutation(len(CATEGORIES))[: count + 2], [count])
    background = pick(rng, BACKGROUNDS)
    scene = Scene(place_objects(rng, [int(c) for c in drawn], duration_s=10), 10, background)
    draft.picture(scene, 0.5)
    asked = [qa for qa in describe_picture(scene, 0.5, rng) if not qa[0].startswith("What")]
    sides = [qa for qa in asked if "Where is" in qa[0] or "side" in qa[0]]
    sides += [(f"Where is the {CATEGORIES[int(c)].name}?", "it is not here") for c in absent]
    exact = [qa for qa in asked if any(w in qa[0] for w in ("box", "corners", "Mark", "points"))]
    there = see_places(scene, 0.5)
    # The answer gives all places, then the place of the thing in question, then its box. Each step follows
    # from the one before.
    after = [
        (f"Who is where? And the {name(o)}? Then: {q}", f"{there} The {name(o)} is {at(o.place)}. {told}")
        for o in scene.objects
        for q, told in exact
        if f"the {name(o)}" in q
    ]
    draft.questions = sides + exact + after + after


def _moment(draft: Draft, seed: int) -> None:
    item = random_item(draft.rng, seed, "s4", "ms3", "ref_avs", "arig")
    assert item.image is not None
    scene, moment = item.image
    draft.picture(scene, moment)
    if item.unit is None:
        draft.play(scene, window=AudioWindow("units", units=5))
    else:
        units = 10 if item.dataset == "ref_avs" else 5
        draft.play(scene, window=AudioWindow("one_unit", units=units), unit=item.unit)
    asked = describe_moment(scene, moment, draft.rng)
    seen = describe_picture(scene, moment, draft.rng)[:4]
    draft.questions = asked + seen
    loud = [i for i in scene.seen_at(moment) if i in scene.heard_at(moment)]
    if len(loud) == 1:
        told, noun = asked[0][1], name(scene.objects[loud[0]])
        exact = [qa for qa in asked if {"[", "("} & {*qa[1]}]
        where = f"{told} The {noun} is {at(scene.objects[loud[0]].place)}."
        draft.questions += [
            (f"Who is seen and heard, and where? Then: {q}", f"{where} {box}") for q, box in exact
        ]


def _sound(draft: Draft, seed: int) -> None:
    rng = draft.rng
    if rng.random() < 0.4:
        scene = random_item(rng, seed, "dfew", "meld", "mafw", "ks", "ucf").audios[0]
    else:
        scene = random_scene(rng, 4)
    draft.play(scene)
    draft.questions = describe_audio(scene, rng)


def _clip(draft: Draft, seed: int) -> None:
    rng = draft.rng
    drawn = rng.random() < 0.4
    scene = random_scene(rng, 4) if drawn else random_item(rng, seed, "avcap", "avqa_thu").videos[0]
    draft.show(scene, frames=4 if rng.random() < 0.5 else 10)
    draft.play(scene)
    draft.questions = describe(scene, rng) + relate(scene, rng) + numbers(scene, rng)


def _video(*names: str, frames: int = 10, window: AudioWindow = _TENTHS) -> Drafter:
    """Return a function that drafts one clip of one of the datasets, with questions about all of it."""

    def drafted(draft: Draft, seed: int) -> None:
        scene = random_item(draft.rng, seed, *names).videos[0]
        draft.show(scene, frames=frames)
        draft.play(scene, window=window)
        draft.questions = describe(scene, draft.rng)

    return drafted


def _events(draft: Draft, seed: int) -> None:
    rng = draft.rng
    drawn = rng.random() < 0.3
    scene = random_scene(rng, 10, 2) if drawn else random_item(rng, seed, "ave", "unav", "avvp").videos[0]
    draft.show(scene)
    draft.play(scene)
    draft.questions = describe(scene, rng) + relate(scene, rng) + numbers(scene, rng)


def _music(draft: Draft, seed: int) -> None:
    scene = random_item(draft.rng, seed, "avqa").videos[0]
    draft.show(scene)
    draft.play(scene, window=_STRIDED)
    # Questions about seconds are left out: the model hears windows of the sound, not all of it.
    draft.questions = describe(scene, draft.rng) + relate(scene, draft.rng)


def _two_videos(draft: Draft, seed: int) -> None:
    item = random_item(draft.rng, seed, "a2v")
    draft.play(*item.audios)
    draft.show(*item.videos)
    draft.questions = describe_pair(item.videos[0], item.videos[1], draft.rng, "seen", item.audios[0])


def _two_sounds(draft: Draft, seed: int) -> None:
    item = random_item(draft.rng, seed, "v2a")
    draft.show(*item.videos)
    draft.play(*item.audios)
    draft.questions = describe_pair(item.audios[0], item.audios[1], draft.rng, "heard", item.videos[0])


def _scene_of(rng: Rng, categories: Sequence[int], duration_s: int) -> Scene:
    """Return a scene in which things of these categories are seen and heard all the time."""
    heard: list[Spans] = [((0, duration_s),)] * len(categories)
    objects = place_objects(rng, list(categories), duration_s=duration_s, heard=heard)
    return Scene(objects, duration_s, pick(rng, BACKGROUNDS))


def _look_up(draft: Draft, asked: str, facts: Mapping[str, str], otherwise: str) -> None:
    """Ask about names in random order, present and absent ones; the answer repeats each with its fact.

    The order of the names tells nothing, so every fact must be looked up by its name.
    """
    names = [category.name for category in CATEGORIES]
    absent = [word for word in draft.rng.permutation(names).tolist() if word not in facts]
    listed = draft.rng.permutation([*facts, *absent[: max(4 - len(facts), 1)]]).tolist()
    told = ", ".join(f"{word} {facts.get(word, otherwise)}" for word in listed)
    draft.questions.append((f"{', '.join(listed)}: {asked}?", told))
    draft.plain = True


def _find(draft: Draft, seed: int, *, boxes: bool = False) -> None:
    """Draft a picture and questions where things are, as a side or as a box."""
    rng = draft.rng
    scene = _scene_of(rng, rng.permutation(len(CATEGORIES))[: int(rng.integers(1, 4))].tolist(), 10)
    draft.picture(scene, 0.5)
    places = {name(o): o.place for o in scene.objects}
    masks = render_masks(scene, 0.5)
    areas = {name(o): box_text(box_of(m)) for o, m in zip(scene.objects, masks, strict=True)}
    for _ in range(6):
        if boxes and rng.random() < 0.6:
            _look_up(draft, "box", areas, "nowhere")
        else:
            _look_up(draft, "where", places, "nowhere")


def _find_times(draft: Draft, seed: int) -> None:
    """Draft a video or a sound, and questions when things are seen or heard."""
    rng = draft.rng
    drawn = rng.random() < 0.5
    scene = random_scene(rng, 10, 2) if drawn else random_item(rng, seed, "ave", "unav", "avvp").videos[0]
    if seen := rng.random() < 0.5:
        draft.show(scene)
    else:
        draft.play(scene)
    times = {name(o): o.seen if seen else o.heard for o in scene.objects}
    facts = {word: spans(intervals) for word, intervals in times.items() if intervals}
    for _ in range(6):
        _look_up(draft, "seen" if seen else "heard", facts, "never")


def _order(draft: Draft, seed: int) -> None:
    """Draft two videos or two sounds with one thing each, and ask in which of them one of the things is."""
    rng = draft.rng
    pair = [int(c) for c in rng.permutation(len(CATEGORIES))[:2]]
    if rng.random() < 0.75:
        draft.show(*[_scene_of(rng, [c], 10) for c in pair], frames=2)
    else:
        draft.play(*[_scene_of(rng, [c], 2) for c in pair], window=AudioWindow("units", units=2))
    chosen = int(rng.integers(2))
    draft.questions, draft.plain = [(f"{CATEGORIES[pair[chosen]].name}?", ("first", "second")[chosen])], True


def _background(draft: Draft, seed: int) -> None:
    """Draft a clip and questions about its background, in which the datasets differ."""
    rng = draft.rng
    scene = random_item(rng, seed, *_WITH_VIDEO).videos[0]
    draft.show(scene)
    draft.play(scene)
    ask = pick(rng, ("What is the background?", "Which background?"))
    draft.questions = [(ask, scene.background)] * 5 + describe_picture(scene, 0.5, rng)[:3]


def _talk(count: int, asked: Callable[[Rng, int], QA]) -> Drafter:
    """Return a function that drafts ``count`` questions without a clip."""

    def drafted(draft: Draft, seed: int) -> None:
        draft.questions = [asked(draft.rng, seed) for _ in range(count)]

    return drafted


KINDS: dict[str, Drafter] = {
    "picture": _picture,
    "moment": _moment,
    "sound": _sound,
    "clip": _clip,
    "face": _video("dfew", "meld", "mafw", "cremad", "mer24", frames=4, window=_FIRST_4_S),
    "action": _video("ks", "ucf"),
    "events": _events,
    "music": _music,
    "two_videos": _two_videos,
    "two_sounds": _two_sounds,
    "order": _order,
    "find": _find,
    "find_boxes": partial(_find, boxes=True),
    "find_times": _find_times,
    "spot": _spot,
    "match": _talk(12, match),
    "recall": _talk(10, recall),
    "place_again": _talk(10, partial(recall, form="again")),
    "place_short": _talk(10, partial(recall, form="short")),
    "background": _background,
    "classes": _talk(10, call),
    "options": _talk(8, choose),
    "text": _talk(10, conclude),
    "copy": _talk(8, copy),
}
"""Kind of conversation -> function that drafts it, given the draft and the seed of the synthetic world."""


def draw(kind: str, rng: Rng, seed: int, most: int, lists: int) -> tuple[Example, list[QA]]:
    """Return one random example of a kind, and the questions and answers that follow in the conversation.

    Args:
        kind: A key of :data:`KINDS`.
        rng: Makes all random choices.
        seed: Seed of the synthetic world.
        most: Largest number of questions in all.
        lists: Number of further copies of each question whose answer lists everything, in the pool from which
            the questions are drawn.
    """
    while True:
        draft = Draft(rng)
        KINDS[kind](draft, seed)
        if draft.questions:
            return draft.example(kind, most, lists)
