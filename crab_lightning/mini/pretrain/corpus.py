"""What the mini base model reads: scenes of the synthetic world, described in words of their own.

The scenes are drawn like those of Mini AV-UIE but from other seeds, and the questions are not its nineteen
tasks': the base learns to see, hear, place and time things, and to say so plainly, in tags or after another
answer. What to do with that for each task is left to the adapters, as with a published base model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from crab_lightning.media import apply_window
from crab_lightning.mini.pretrain.dialogue import copies, matches, numbers, recalls, relate, turns, words
from crab_lightning.mini.pretrain.towers import noise, roughen
from crab_lightning.mini.world.datasets import DATASETS, make_item
from crab_lightning.mini.world.describe import (
    QA,
    describe,
    describe_audio,
    describe_moment,
    describe_pair,
    describe_picture,
)
from crab_lightning.mini.world.item import FPS
from crab_lightning.mini.world.phrases import at, name, see_places
from crab_lightning.mini.world.render import render_audio, render_frames
from crab_lightning.mini.world.scenes import Rng, Scene, place_objects, random_scene, rng_for
from crab_lightning.mini.world.sprites import BACKGROUNDS
from crab_lightning.mini.world.vocabulary import CATEGORIES
from crab_lightning.processing import NativeProcessor
from crab_lightning.processing.base import IGNORED_LABEL
from crab_lightning.structures import AudioWindow, Batch, Encoded, Example, Media, Sample

_BRACKETS = re.compile(r"(?<=[<>\[\](/])")
_TENTHS = AudioWindow("units", units=10)
_STRIDED = AudioWindow("strided", units=60, every=6, before=0.5, after=1.5)
_FIRST_4_S = AudioWindow("head", head_s=4.0)


def clip_frames(scene: Scene, count: int) -> NDArray[np.uint8]:
    """Render the frames that a reader of the written clip would sample, uint8 ``(F, H, W, 3)``."""
    total = scene.duration_s * FPS
    return render_frames(scene, [float(i) / FPS for i in np.round(np.linspace(0, total - 1, count))])


class Draft:
    """Media and questions of one training example, put together step by step."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.media: list[Media] = []
        self.kinds: dict[str, Any] = {"videos": [], "images": [], "audios": [], "seconds_per_grid": []}
        self.questions: list[QA] = []

    def show(self, *scenes: Scene, frames: int = 10) -> None:
        """Add one video made of the scenes one after the other."""
        self.media.append(Media.VIDEO)
        pixels = np.concatenate([clip_frames(s, frames) for s in scenes])
        self.kinds["videos"].append(roughen(pixels, self.rng))
        self.kinds["seconds_per_grid"].append(2.0)

    def picture(self, scene: Scene, time_s: float) -> None:
        """Add one frame."""
        self.media.append(Media.IMAGE)
        self.kinds["images"].append(roughen(render_frames(scene, [time_s]), self.rng)[0])

    def play(self, *scenes: Scene, window: AudioWindow = _TENTHS, unit: int | None = None) -> None:
        """Add one sound made of the scenes one after the other."""
        self.media.append(Media.AUDIO)
        waves = [apply_window(torch.from_numpy(render_audio(s)), window, unit) for s in scenes]
        wave = torch.cat(waves)
        self.kinds["audios"].append(wave + 3e-4 * torch.from_numpy(noise(self.rng, len(wave))))

    def example(self, kind: str, most: int, lists: int) -> tuple[Example, list[QA]]:
        """Return the example with its first question and answer, and up to ``most - 1`` more to follow."""
        if self.rng.random() < 0.5:
            self.media.reverse()
        asked = self.questions
        if self.media:
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
    """Return the questions whose answer names all there is in its order; the others follow from these."""
    return [qa for qa in questions if qa[0].startswith(_LISTINGS)]


def _item(rng: Rng, seed: int, *names: str) -> Any:
    name = names[int(rng.integers(len(names)))]
    return make_item(name, "train", int(rng.integers(1 << 31)), seed)


def _picture(draft: Draft, seed: int) -> None:
    rng = draft.rng
    if rng.random() < 0.25:  # faces and tools
        scene = _item(rng, seed, "dfew", "meld", "mafw", "cremad", "mer24", "ks", "ucf").videos[0]
    else:
        scene = random_scene(rng, 4)
    moment = float(rng.integers(scene.duration_s)) + 0.5
    draft.picture(scene, moment)
    draft.questions = describe_picture(scene, moment, rng)
    if not draft.questions:  # a tool or face has one question; an empty frame has those about absence
        raise ValueError("a scene without anything to ask about")


def _spot(draft: Draft, seed: int) -> None:
    """Few things and nothing asked but where they are: by name, among others, or not there at all."""
    rng = draft.rng
    count = (1, 2, 3, 3)[int(rng.integers(4))]
    drawn, absent = np.split(rng.permutation(len(CATEGORIES))[: count + 2], [count])
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    scene = Scene(place_objects(rng, [int(c) for c in drawn], duration_s=10), 10, background)
    draft.picture(scene, 0.5)
    asked = [qa for qa in describe_picture(scene, 0.5, rng) if not qa[0].startswith("What")]
    sides = [qa for qa in asked if "Where is" in qa[0] or "side" in qa[0]]
    sides += [(f"Where is the {CATEGORIES[int(c)].name}?", "it is not here") for c in absent]
    exact = [qa for qa in asked if any(w in qa[0] for w in ("box", "corners", "Mark", "points"))]
    there = see_places(scene, 0.5)
    # all places told first, then that of the thing asked for, then its box: each step follows from the last
    after = [
        (f"Who is where? And the {name(o)}? Then: {q}", f"{there} The {name(o)} is {at(o.place)}. {told}")
        for o in scene.objects
        for q, told in exact
        if f"the {name(o)}" in q
    ]
    draft.questions = sides + exact + after + after


def _moment(draft: Draft, seed: int) -> None:
    item = _item(draft.rng, seed, "s4", "ms3", "ref_avs", "arig")
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
        scene = _item(rng, seed, "dfew", "meld", "mafw", "ks", "ucf").audios[0]
    else:
        scene = random_scene(rng, 4)
    draft.play(scene)
    draft.questions = describe_audio(scene, rng)


def _clip(draft: Draft, seed: int) -> None:
    rng = draft.rng
    scene = random_scene(rng, 4) if rng.random() < 0.4 else _item(rng, seed, "avcap", "avqa_thu").videos[0]
    draft.show(scene, frames=4 if rng.random() < 0.5 else 10)
    draft.play(scene)
    draft.questions = describe(scene, rng) + relate(scene, rng) + numbers(scene, rng)


def _video(*names: str, frames: int = 10, window: AudioWindow = _TENTHS) -> Drafter:
    """Return what drafts one clip of the named datasets, with questions about all of it."""

    def drafted(draft: Draft, seed: int) -> None:
        scene = _item(draft.rng, seed, *names).videos[0]
        draft.show(scene, frames=frames)
        draft.play(scene, window=window)
        draft.questions = describe(scene, draft.rng)

    return drafted


def _events(draft: Draft, seed: int) -> None:
    rng = draft.rng
    drawn = rng.random() < 0.3
    scene = random_scene(rng, 10, 2) if drawn else _item(rng, seed, "ave", "unav", "avvp").videos[0]
    draft.show(scene)
    draft.play(scene)
    draft.questions = describe(scene, rng) + relate(scene, rng) + numbers(scene, rng)


def _music(draft: Draft, seed: int) -> None:
    scene = _item(draft.rng, seed, "avqa").videos[0]
    draft.show(scene)
    draft.play(scene, window=_STRIDED)
    # what is said of seconds would be wrong: the sound reaches the model in cut windows
    draft.questions = describe(scene, draft.rng) + relate(scene, draft.rng)


def _two_videos(draft: Draft, seed: int) -> None:
    item = _item(draft.rng, seed, "a2v")
    draft.play(*item.audios)
    draft.show(*item.videos)
    draft.questions = describe_pair(item.videos[0], item.videos[1], draft.rng, "seen", item.audios[0])


def _two_sounds(draft: Draft, seed: int) -> None:
    item = _item(draft.rng, seed, "v2a")
    draft.show(*item.videos)
    draft.play(*item.audios)
    draft.questions = describe_pair(item.audios[0], item.audios[1], draft.rng, "heard", item.videos[0])


def _talk(made: Callable[[Draft, int], list[QA]]) -> Drafter:
    """Return what drafts questions without a clip."""

    def drafted(draft: Draft, seed: int) -> None:
        draft.questions = made(draft, seed)

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
    "spot": _spot,
    "match": _talk(lambda draft, _: matches(draft.rng, 12)),
    "recall": _talk(lambda draft, _: recalls(draft.rng, 10)),
    "place_again": _talk(lambda draft, _: recalls(draft.rng, 10, "again")),
    "place_short": _talk(lambda draft, _: recalls(draft.rng, 10, "short")),
    "text": _talk(lambda draft, seed: words(draft.rng, seed, 10)),
    "copy": _talk(lambda draft, seed: copies(draft.rng, seed, 8)),
}
"""Kind of conversation -> what drafts it."""


def draw(kind: str, rng: Rng, seed: int, most: int, lists: int) -> tuple[Example, list[QA]]:
    """Draw one example of a kind and the turns that follow.

    Args:
        kind: A key of :data:`KINDS`.
        rng: Chooses.
        seed: Of the synthetic world.
        most: Largest number of questions in all.
        lists: How many times more often a question is drawn whose answer lists all there is.
    """
    while True:
        draft = Draft(rng)
        KINDS[kind](draft, seed)
        if draft.questions:
            return draft.example(kind, most, lists)


def go_on(processor: NativeProcessor, first: Encoded, rest: Sequence[QA]) -> Encoded:
    """Append turns to an encoded example; every answer of the conversation is learnt."""
    assert first.labels is not None
    ids, labels = [first.inputs["input_ids"]], [first.labels]
    end = processor.tokenizer("\n")["input_ids"]
    for question, answer in rest:
        head = processor.tokenizer(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant")[
            "input_ids"
        ]
        tail = processor.tokenizer(f"\n{answer}<|im_end|>")["input_ids"]
        ids.append(torch.tensor(head + tail + end))
        nothing = [IGNORED_LABEL]
        labels.append(torch.tensor(nothing * len(head) + tail + nothing * len(end)))
    joined = torch.cat(ids)
    positions = first.inputs["position_ids"]
    more = positions[:, -1:] + 1 + torch.arange(len(joined) - positions.shape[1])
    inputs = {**first.inputs, "input_ids": joined, "position_ids": torch.cat((positions, more), 1)}
    return Encoded(inputs, torch.cat(labels), first.sample)


class Corpus(IterableDataset[Batch]):
    """Endless batches of described scenes; each batch has clips of one kind, so that little is padded.

    Args:
        processor: Encodes the examples.
        seed: Start of the random stream; workers get streams of their own. Mini AV-UIE trees with other seeds
            share no clip with it.
        tokens: Upper bound of the padded tokens of a batch.
        questions: Largest number of questions about one clip.
        kinds: Weights of kinds of conversations.
        lists: As for :func:`draw`.
    """

    def __init__(
        self,
        processor: NativeProcessor,
        seed: int,
        tokens: int,
        questions: int,
        kinds: Mapping[str, float],
        lists: int,
    ) -> None:
        self.processor, self.seed, self.tokens = processor, seed, tokens
        self.questions, self.lists = questions, lists
        self.kinds = dict(kinds)
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(
                f"there is no kind of conversation {unknown[0]!r}; there are: {', '.join(KINDS)}"
            )

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        rng = rng_for(self.seed, "corpus", info.id if info else 0)
        names, chances = list(self.kinds), np.array(list(self.kinds.values()), float)
        while True:
            kind = names[int(rng.choice(len(names), p=chances / chances.sum()))]
            encoded: list[Any] = []
            longest = 0
            while (len(encoded) + 1) * longest <= self.tokens:
                example, rest = draw(kind, rng, self.seed, self.questions, self.lists)
                encoded.append(go_on(self.processor, self.processor.encode(example), rest))
                longest = max(longest, len(encoded[-1].inputs["input_ids"]))
            yield self.processor.collate(encoded)


def corpus_texts(seed: int, count: int) -> list[str]:
    """Return questions, answers and the tasks' own texts, to learn a vocabulary from.

    Texts are cut at brackets. Qwen's pre-tokenizer joins a bracket with the word behind it, and a vocabulary
    that has seen ``>joy`` makes one token of it, which no other text would ever teach; cut, it is ``>`` and
    the ``joy`` that starts any answer.
    """
    rng = rng_for(seed, "texts")
    texts: list[str] = []
    for index in range(count):
        for dataset in DATASETS:
            item = make_item(dataset, "train", index, seed)
            texts += [item.target, *(str(v) for v in item.fields.values() if isinstance(v, str) and " " in v)]
            for scene in (*item.videos, *item.audios):
                asked = describe(scene, rng) + relate(scene, rng) + numbers(scene, rng)
                texts += [text for pair in asked for text in pair]
        texts += [text for pair in words(rng, seed, 10) for text in pair]
    return [part.strip() for text in texts for part in _BRACKETS.split(text) if part.strip()]
