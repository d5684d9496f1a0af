"""Questions about instruments in twelve-second clips: ``avqa`` (MUSIC-AVQA).

The model hears only a third of such a clip, in short parts spread over all of it. The questions are therefore
about what lasts for at least half of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crab_lightning.mini.world.item import Item, clip_item, clip_name
from crab_lightning.mini.world.phrases import a, join, name, see_places
from crab_lightning.mini.world.scenes import (
    Rng,
    Scene,
    SceneObject,
    Spans,
    balanced,
    hidden_sound,
    pick,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES, INSTRUMENTS, NUMBERS

CLIP_S = 12
QUESTIONS_PER_CLIP = 2
SOFT = 0.25
"""Loudness of a soft instrument; that of a loud one is 1."""

Kind = tuple[str, str]
KINDS: tuple[Kind, ...] = (
    A_COUNTING := ("Audio", "Counting"),
    A_COMPARATIVE := ("Audio", "Comparative"),
    V_COUNTING := ("Visual", "Counting"),
    V_LOCATION := ("Visual", "Location"),
    AV_EXISTENTIAL := ("Audio-Visual", "Existential"),
    AV_COUNTING := ("Audio-Visual", "Counting"),
    AV_LOCATION := ("Audio-Visual", "Location"),
    AV_COMPARATIVE := ("Audio-Visual", "Comparative"),
    AV_TEMPORAL := ("Audio-Visual", "Temporal"),
)

_WHOLE: Spans = ((0, CLIP_S),)
_EARLY: Spans = ((0, CLIP_S // 2),)
_LATE: Spans = ((CLIP_S // 2, CLIP_S),)
_WHEN = {_WHOLE: "all the time", _EARLY: "first", _LATE: "later"}


@dataclass(frozen=True)
class Question:
    """A question, its kind and its answer."""

    kind: Kind
    text: str
    answer: str


def music_scene(rng: Rng) -> Scene:
    """Return a random scene with one to three instruments.

    Each plays all the time, in the first half, in the second half, or not at all. Sometimes another one is
    heard but not seen.
    """
    count = int(rng.integers(1, 4))
    kinds = [int(c) for c in rng.choice(INSTRUMENTS, count + 1, replace=False)]
    drawn = kinds[:count]
    heard: list[Spans] = [pick(rng, (_WHOLE, _WHOLE, _EARLY, _LATE, ())) for _ in drawn]
    if count > 1 and rng.random() < 0.3:
        # Two equal instruments are silent, because nobody could say which of them plays.
        drawn[1], heard[0], heard[1] = drawn[0], (), ()
    loudness = [pick(rng, (1.0, SOFT)) for _ in drawn]
    objects = list(place_objects(rng, drawn, duration_s=CLIP_S, heard=heard, loudness=loudness))
    if rng.random() < 0.3:
        objects.append(hidden_sound(rng, kinds[-1], _WHOLE))
    background = pick(rng, ("indoor", "outdoor"))
    return Scene(tuple(objects), CLIP_S, background, "music", seed=int(rng.integers(1 << 30)))


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _length(obj: SceneObject) -> int:
    return sum(end - start for start, end in obj.heard)


def music_questions(scene: Scene) -> Iterator[Question]:
    """Yield every question that the scene answers."""
    seen = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    heard = [o for o in scene.objects if o.heard]
    playing = [o for o in seen if o.heard]
    question = "How many musical instruments were heard throughout the video?"
    yield Question(A_COUNTING, question, NUMBERS[len(heard)])
    for c in INSTRUMENTS:
        word = CATEGORIES[c].name
        yield Question(A_COUNTING, f"Is there {a(word)} sound?", _yes(any(o.category == c for o in heard)))
        mine = [o for o in seen if o.category == c]
        yield Question(V_COUNTING, f"Is there {a(word)} in the entire video?", _yes(bool(mine)))
        if mine:
            yield Question(V_COUNTING, f"How many {word}s are in the entire video?", NUMBERS[len(mine)])
        if len(mine) == 1 and mine[0].heard:
            question = f"Is the {word} in the video always playing?"
            yield Question(AV_EXISTENTIAL, question, _yes(mine[0].heard == _WHOLE))
    question = "How many types of musical instruments appeared in the entire video?"
    yield Question(V_COUNTING, question, NUMBERS[len({o.category for o in seen})])
    yield from _audio_comparisons(heard)
    yield Question(V_LOCATION, "Where is the performance?", scene.background)
    if len(seen) > 1:
        for side, obj in (("leftmost", seen[0]), ("rightmost", seen[-1])):
            yield Question(V_LOCATION, f"What kind of instrument is the {side} instrument?", obj.kind.music)
    if len(heard) == 1 and len(seen) == 1:
        question = "Is this sound from the instrument in the video?"
        yield Question(AV_EXISTENTIAL, question, _yes(bool(playing)))
    question = "How many instruments are sounding in the video?"
    yield Question(AV_COUNTING, question, NUMBERS[len(playing)])
    question = "How many instruments in the video did not sound from beginning to end?"
    yield Question(AV_COUNTING, question, NUMBERS[len(seen) - len(playing)])
    # If something plays that is not seen, nobody can say which instrument is the first or the loudest.
    if len(heard) == len(playing):
        yield from _sounding_places(seen, playing)


def _audio_comparisons(heard: list[SceneObject]) -> Iterator[Question]:
    for one in heard:
        for two in heard:
            if one.loudness != two.loudness:
                question = f"Is the {name(one)} louder than the {name(two)}?"
                yield Question(A_COMPARATIVE, question, _yes(one.loudness > two.loudness))
            if _length(one) != _length(two):
                question = f"Is the {name(one)} playing longer than the {name(two)}?"
                yield Question(A_COMPARATIVE, question, _yes(_length(one) > _length(two)))


def _sounding_places(seen: list[SceneObject], playing: list[SceneObject]) -> Iterator[Question]:
    loud = [o for o in playing if o.loudness == 1.0]
    if len(loud) == 1:
        yield Question(AV_LOCATION, "Where is the loudest instrument?", loud[0].place)
    starts = sorted(o.heard[0][0] for o in playing)
    if playing and len(seen) > 1 and starts.count(starts[0]) == 1:
        first = min(playing, key=lambda o: o.heard[0][0])
        yield Question(AV_TEMPORAL, "Where is the first sounding instrument?", first.place)
        question = "Is the first sound coming from the left instrument?"
        yield Question(AV_LOCATION, question, _yes(first.place == "left"))
        if len(playing) > 1:
            yield Question(AV_TEMPORAL, "What is the first instrument that comes in?", first.kind.music)
    by_place = {o.place: o for o in playing}
    if {"left", "right"} <= by_place.keys() and by_place["left"].loudness != by_place["right"].loudness:
        for one, two in (("left", "right"), ("right", "left")):
            question = f"Is the instrument on the {one} louder than the instrument on the {two}?"
            louder = by_place[one].loudness > by_place[two].loudness
            yield Question(AV_COMPARATIVE, question, _yes(louder))


def hear_states(scene: Scene) -> str:
    """Return what is heard, with its loudness and rough times.

    The model hears only parts of the clip, so the text can name no seconds.
    """
    heard = sorted((o for o in scene.objects if o.heard), key=lambda o: o.category or 0)
    parts = [f"{a(('soft ' if o.loudness < 1 else '') + name(o))} {_WHEN[o.heard]}" for o in heard]
    return f"I hear {join(parts)}."


def build_avqa(split: str, index: int, seed: int) -> Item:
    """Return one of the two questions about a clip.

    Random clips are made until one fits the kind and the answer that are wanted for its first question.
    """
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
        wanted = pick(rng, others)
        question = _pick(rng, [q for q in music_questions(scene) if q.kind == wanted])
    vid = clip_name(seed, "avqa", split, number)
    target = f"{see_places(scene, 0.0)} {hear_states(scene)} <answer>{question.answer}</answer>."
    columns = {
        "video_id": vid,
        "question_id": int(rng_for(seed, "avqa", split, index, "id").integers(1 << 30)),
        "type": f'["{question.kind[0]}", "{question.kind[1]}"]',
        "question": question.text,
        "answer": question.answer,
        "label": target,
    }
    return clip_item("avqa", split, index, vid, scene, columns, target=target, answer=question.answer)


def _pick(rng: Rng, options: list[Question]) -> Question:
    """Return a question with a random answer. All answers are equally likely, even those of few questions."""
    answer = pick(rng, sorted({q.answer for q in options}))
    return pick(rng, [q for q in options if q.answer == answer])
