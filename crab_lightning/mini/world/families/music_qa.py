"""Questions about instruments playing together: ``avqa`` (MUSIC-AVQA).

Only long-lasting states are asked for: the model hears a third of the clip, in short windows all over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crab_lightning.mini.world.item import Item, clip_files, clip_name
from crab_lightning.mini.world.phrases import a, join, name, see_places
from crab_lightning.mini.world.scenes import (
    Interval,
    Rng,
    Scene,
    SceneObject,
    balanced,
    hidden_sound,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES, INSTRUMENTS, NUMBERS

CLIP_S = 12
QUESTIONS_PER_CLIP = 2
SOFT = 0.25

KINDS: tuple[tuple[str, str], ...] = (
    ("Audio", "Counting"),
    ("Audio", "Comparative"),
    ("Visual", "Counting"),
    ("Visual", "Location"),
    ("Audio-Visual", "Existential"),
    ("Audio-Visual", "Counting"),
    ("Audio-Visual", "Location"),
    ("Audio-Visual", "Comparative"),
    ("Audio-Visual", "Temporal"),
)

_WHOLE: tuple[Interval, ...] = ((0, CLIP_S),)
_EARLY: tuple[Interval, ...] = ((0, CLIP_S // 2),)
_LATE: tuple[Interval, ...] = ((CLIP_S // 2, CLIP_S),)
_WHEN = {_WHOLE: "all the time", _EARLY: "first", _LATE: "later"}


@dataclass(frozen=True)
class Question:
    """A question, its kind and its answer."""

    kind: tuple[str, str]
    text: str
    answer: str


def music_scene(rng: Rng) -> Scene:
    """Draw one to three instruments that play all the time, first, later or not at all."""
    count = int(rng.integers(1, 4))
    kinds = [int(c) for c in rng.choice(INSTRUMENTS, count + 1, replace=False)]
    drawn = kinds[:count]
    heard: list[tuple[Interval, ...]] = [
        (_WHOLE, _WHOLE, _EARLY, _LATE, ())[int(rng.integers(5))] for _ in drawn
    ]
    if count > 1 and rng.random() < 0.3:
        drawn[1], heard[0], heard[1] = drawn[0], (), ()  # twins; silent, for nobody could tell who plays
    loudness = [(1.0, SOFT)[int(rng.integers(2))] for _ in drawn]
    objects = list(place_objects(rng, drawn, duration_s=CLIP_S, heard=heard, loudness=loudness))
    if rng.random() < 0.3:
        objects.append(hidden_sound(rng, kinds[-1], _WHOLE))
    background = ("indoor", "outdoor")[int(rng.integers(2))]
    return Scene(tuple(objects), CLIP_S, background, "music", seed=int(rng.integers(1 << 30)))


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _start(obj: SceneObject) -> int:
    return obj.heard[0][0]


def _length(obj: SceneObject) -> int:
    return sum(end - start for start, end in obj.heard)


def _first(players: list[SceneObject]) -> SceneObject | None:
    """The one that starts before all others, if there is one."""
    ranked = sorted(players, key=_start)
    return ranked[0] if ranked and (len(ranked) == 1 or _start(ranked[0]) < _start(ranked[1])) else None


def music_questions(scene: Scene) -> Iterator[Question]:
    """Yield every question that the scene answers."""
    seen = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    heard = [o for o in scene.objects if o.heard]
    playing = [o for o in seen if o.heard]
    words = {c: CATEGORIES[c].name for c in INSTRUMENTS}
    audio, visual = ("Audio", "Counting"), ("Visual", "Counting")
    yield Question(
        audio, "How many musical instruments were heard throughout the video?", NUMBERS[len(heard)]
    )
    for c, word in words.items():
        yield Question(audio, f"Is there {a(word)} sound?", _yes(any(o.category == c for o in heard)))
        mine = [o for o in seen if o.category == c]
        yield Question(visual, f"Is there {a(word)} in the entire video?", _yes(bool(mine)))
        if mine:
            yield Question(visual, f"How many {word}s are in the entire video?", NUMBERS[len(mine)])
        if len(mine) == 1 and mine[0].heard:
            always = _yes(mine[0].heard == _WHOLE)
            yield Question(
                ("Audio-Visual", "Existential"), f"Is the {word} in the video always playing?", always
            )
    yield Question(
        visual,
        "How many types of musical instruments appeared in the entire video?",
        NUMBERS[len({o.category for o in seen})],
    )
    yield from _audio_comparisons(heard)
    yield from _places(scene, seen)
    if len(heard) == 1 and len(seen) == 1:
        yield Question(
            ("Audio-Visual", "Existential"),
            "Is this sound from the instrument in the video?",
            _yes(bool(playing)),
        )
    yield Question(
        ("Audio-Visual", "Counting"), "How many instruments are sounding in the video?", NUMBERS[len(playing)]
    )
    yield Question(
        ("Audio-Visual", "Counting"),
        "How many instruments in the video did not sound from beginning to end?",
        NUMBERS[len(seen) - len(playing)],
    )
    yield from _sounding_places(seen, heard, playing)


def _audio_comparisons(heard: list[SceneObject]) -> Iterator[Question]:
    kind = ("Audio", "Comparative")
    for one in heard:
        for two in heard:
            if one.loudness != two.loudness:
                louder = _yes(one.loudness > two.loudness)
                yield Question(kind, f"Is the {name(one)} louder than the {name(two)}?", louder)
            if _length(one) != _length(two):
                longer = _yes(_length(one) > _length(two))
                yield Question(kind, f"Is the {name(one)} playing longer than the {name(two)}?", longer)


def _places(scene: Scene, seen: list[SceneObject]) -> Iterator[Question]:
    kind = ("Visual", "Location")
    yield Question(kind, "Where is the performance?", scene.background)
    if len(seen) > 1:
        yield Question(kind, "What kind of instrument is the leftmost instrument?", seen[0].kind.music)
        yield Question(kind, "What kind of instrument is the rightmost instrument?", seen[-1].kind.music)


def _sounding_places(
    seen: list[SceneObject], heard: list[SceneObject], playing: list[SceneObject]
) -> Iterator[Question]:
    place, time = ("Audio-Visual", "Location"), ("Audio-Visual", "Temporal")
    if len(heard) != len(playing):
        return  # something plays out of sight: "the first instrument" would be open to dispute
    loud = [o for o in playing if o.loudness == 1.0]
    if len(loud) == 1:
        yield Question(place, "Where is the loudest instrument?", loud[0].place)
    first = _first(playing)
    if first is not None and len(seen) > 1:
        yield Question(time, "Where is the first sounding instrument?", first.place)
        yield Question(
            place, "Is the first sound coming from the left instrument?", _yes(first.place == "left")
        )
        if len(playing) > 1:
            yield Question(time, "What is the first instrument that comes in?", first.kind.music)
    by_place = {o.place: o for o in playing}
    if {"left", "right"} <= by_place.keys() and by_place["left"].loudness != by_place["right"].loudness:
        louder = by_place["left"].loudness > by_place["right"].loudness
        for one, two, answer in (("left", "right", louder), ("right", "left", not louder)):
            yield Question(
                ("Audio-Visual", "Comparative"),
                f"Is the instrument on the {one} louder than the instrument on the {two}?",
                _yes(answer),
            )


def hear_states(scene: Scene) -> str:
    """Return what is heard, in rough times and loudness: the cut windows leave no seconds to name."""
    heard = sorted((o for o in scene.objects if o.heard), key=lambda o: o.category or 0)
    parts = [f"{a(('soft ' if o.loudness < 1 else '') + name(o))} {_WHEN[o.heard]}" for o in heard]
    return f"I hear {join(parts)}."


def build_avqa(split: str, index: int, seed: int) -> Item:
    """One of two questions about a clip; the first one's kind and answer decide how the clip looks."""
    number, second = divmod(index, QUESTIONS_PER_CLIP)
    rng = rng_for(seed, "avqa", split, number)
    kind = KINDS[balanced(seed, number, len(KINDS), "avqa", split)]
    preferred = _yes(balanced(seed, number, 2, "avqa", split, "yes") == 0)
    while True:
        scene = music_scene(rng)
        options = [q for q in music_questions(scene) if q.kind == kind]
        if any(q.answer not in ("yes", "no") for q in options) and rng.random() < 0.7:
            options = [q for q in options if q.answer not in ("yes", "no")]
        else:
            options = [q for q in options if q.answer == preferred]
        if options:
            break
    question = _pick(rng, options)
    if second:
        rng = rng_for(seed, "avqa", split, number, "second")
        others = sorted({q.kind for q in music_questions(scene)} - {kind})
        wanted = others[int(rng.integers(len(others)))]
        question = _pick(rng, [q for q in music_questions(scene) if q.kind == wanted])
    vid = clip_name(seed, "avqa", split, number)
    target = f"{see_places(scene, 0.0)} {hear_states(scene)} <answer>{question.answer}</answer>."
    fields = {
        "video_path": f"{vid}.mp4",
        "audio_path": f"{vid}.mp3",
        "video_id": vid,
        "question_id": int(rng_for(seed, "avqa", split, index, "id").integers(1 << 30)),
        "type": f'["{question.kind[0]}", "{question.kind[1]}"]',
        "question": question.text,
        "answer": question.answer,
        "label": target,
    }
    files = clip_files("avqa", vid, scene)
    return Item("avqa", split, index, vid, fields, target, question.answer, (scene,), (scene,), files=files)


def _pick(rng: Rng, options: list[Question]) -> Question:
    """Choose an answer first, then a question that has it, so that rare answers are not drowned."""
    answers = sorted({q.answer for q in options})
    answer = answers[int(rng.integers(len(answers)))]
    fits = [q for q in options if q.answer == answer]
    return fits[int(rng.integers(len(fits)))]
