"""Multiple choice about any scene: ``avqa_thu`` (AVQA)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crab_lightning.mini.world.item import Item, clip_files, clip_name
from crab_lightning.mini.world.phrases import at, hear_spans, name, see_places
from crab_lightning.mini.world.scenes import (
    Interval,
    Rng,
    Scene,
    balanced,
    hidden_sound,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES, PLACES

CLIP_S = 6
KINDS = ("Which", "Come From", "Happening", "Where", "Before Next", "When")

_WHOLE: tuple[Interval, ...] = ((0, CLIP_S),)
_EARLY: tuple[Interval, ...] = ((0, CLIP_S // 2),)
_LATE: tuple[Interval, ...] = ((CLIP_S // 2, CLIP_S),)
_TIMES = {_WHOLE: "all the time", _EARLY: "at the start", _LATE: "at the end", (): "never"}


@dataclass(frozen=True)
class Choice:
    """A question with its right answer and the wrong ones, the most tempting first."""

    kind: str
    relation: str
    text: str
    answer: str
    wrong: tuple[str, ...]


def _scene(rng: Rng, first: int) -> Scene:
    """Two or three things; one sounds throughout, or one before and one after half time."""
    free = [c for c in range(len(CATEGORIES)) if c != first]
    others = [int(c) for c in rng.choice(free, 3, replace=False)]
    drawn = [first, *others[: int(rng.integers(1, 3))]]
    outside = others[2]
    heard: list[tuple[Interval, ...]] = [()] * len(drawn)
    hidden = []
    spans = [_WHOLE] if rng.random() < 0.5 else [_EARLY, _LATE]
    speakers = [int(i) for i in rng.permutation(len(drawn))[: len(spans)]]
    if rng.random() < 0.25:  # something out of sight instead of the first of them
        hidden.append(hidden_sound(rng, outside, spans[0]))
        speakers, spans = speakers[1:], spans[1:]
    for speaker, span in zip(speakers, spans, strict=True):
        heard[speaker] = span
    objects = place_objects(rng, drawn, duration_s=CLIP_S, heard=heard)
    background = ("indoor", "outdoor")[int(rng.integers(2))]
    return Scene((*objects, *hidden), CLIP_S, background, "objects", seed=int(rng.integers(1 << 30)))


def choices(scene: Scene) -> Iterator[Choice]:
    """Yield every multiple-choice question that the scene answers."""
    seen = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    heard = sorted((o for o in scene.objects if o.heard), key=lambda o: o.heard)
    both = [o for o in seen if o.heard]
    silent = [o for o in seen if not o.heard]
    # Options that are seen or heard come first: without the other sense they look as good as the answer.
    present = [name(o) for o in (*seen, *heard)]
    absent = [c.name for c in CATEGORIES if c.name not in present]
    nouns = list(dict.fromkeys([*present, *absent]))

    def wrong(answer: str) -> tuple[str, ...]:
        return tuple(n for n in nouns if n != answer)

    if len(heard) == 1:
        answer = name(heard[0])
        yield Choice(
            "Come From", "Sound", "What does the sound in the video come from?", answer, wrong(answer)
        )
        places = [*(at(p) for p in PLACES), "not in the video"]
        where = at(heard[0].place) if both else "not in the video"
        yield Choice(
            "Where", "Both", "Where is the sounding object?", where, tuple(p for p in places if p != where)
        )
    if len(both) == 1 and len(heard) == 1:
        answer = name(both[0])
        yield Choice("Which", "Both", "Which object makes the sound in the video?", answer, wrong(answer))
        happening = [f"the {n} {_verb(n)}" for n in nouns]
        fact = f"the {answer} {both[0].kind.verb}"
        yield Choice(
            "Happening",
            "Both",
            "What is happening in the video?",
            fact,
            tuple(h for h in happening if h != fact),
        )
    if len(silent) == 1 and heard:
        answer = name(silent[0])
        yield Choice("Which", "Both", "Which object is seen but not heard?", answer, wrong(answer))
    yield Choice("Which", "View", "Which object is on the left?", name(seen[0]), wrong(name(seen[0])))
    if len(heard) == 2:
        early, late = name(heard[0]), name(heard[1])
        yield Choice(
            "Before Next", "Sound", f"Which sound comes after the {early}?", late, _last(wrong(late), early)
        )
        yield Choice(
            "Before Next", "Sound", f"Which sound comes before the {late}?", early, _last(wrong(early), late)
        )
    for obj in seen:
        time = _TIMES[obj.heard]
        yield Choice(
            "When",
            "Both",
            f"When does the {name(obj)} make a sound?",
            time,
            tuple(t for t in _TIMES.values() if t != time),
        )


def _verb(noun: str) -> str:
    return next(c.verb for c in CATEGORIES if c.name == noun)


def _last(words: tuple[str, ...], word: str) -> tuple[str, ...]:
    """Move the word that the question names itself to the end: it is no fair option."""
    return (*(w for w in words if w != word), word)


def build_avqa_thu(split: str, index: int, seed: int) -> Item:
    """A question with four options in random order."""
    rng = rng_for(seed, "avqa_thu", split, index)
    kind = KINDS[balanced(seed, index, len(KINDS), "avqa_thu", split)]
    first = balanced(seed, index, len(CATEGORIES), "avqa_thu", split, "first")
    while True:
        scene = _scene(rng, first)
        options = [c for c in choices(scene) if c.kind == kind]
        if options:
            break
    answers = sorted({c.answer for c in options})
    wanted = answers[int(rng.integers(len(answers)))]
    options = [c for c in options if c.answer == wanted]
    chosen = options[int(rng.integers(len(options)))]
    four = [chosen.answer, *chosen.wrong[:3]]
    place = balanced(seed, index, 4, "avqa_thu", split, "place")
    rest = [four[1 + int(i)] for i in rng.permutation(3)]
    listed = [*rest[:place], chosen.answer, *rest[place:]]
    stem = clip_name(seed, "avqa_thu", split, index)
    number = int(rng_for(seed, "avqa_thu", split, index, "id").integers(1 << 30))
    target = f"{see_places(scene, 0.0)} {hear_spans(scene)} <answer>{chosen.answer}</answer>."
    fields = {
        "video_path": f"{stem}.mp4",
        "audio_path": f"{stem}.mp3",
        "id": number,
        "video_name": stem,
        "video_id": number % 100_000,
        "question_relation": chosen.relation,
        "question_type": chosen.kind,
        "multi_choice": listed,
        "question_text": chosen.text,
        "answer": chosen.answer,
        "label": target,
    }
    files = clip_files("avqa_thu", stem, scene)
    return Item(
        "avqa_thu", split, index, stem, fields, target, chosen.answer, (scene,), (scene,), files=files
    )
