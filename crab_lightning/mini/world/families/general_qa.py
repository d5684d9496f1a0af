"""Multiple-choice questions about six-second clips: ``avqa_thu`` (AVQA)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crab_lightning.mini.world.item import Item, clip_item, clip_name
from crab_lightning.mini.world.phrases import at, hear_spans, name, see_places
from crab_lightning.mini.world.scenes import (
    Rng,
    Scene,
    Spans,
    balanced,
    hidden_sound,
    other_categories,
    pick,
    place_objects,
    rng_for,
)
from crab_lightning.mini.world.vocabulary import CATEGORIES, PLACES

CLIP_S = 6
KINDS = ("Which", "Come From", "Happening", "Where", "Before Next", "When")

_WHOLE: Spans = ((0, CLIP_S),)
_EARLY: Spans = ((0, CLIP_S // 2),)
_LATE: Spans = ((CLIP_S // 2, CLIP_S),)
_VERBS = {c.name: c.verb for c in CATEGORIES}
_TIMES = {_WHOLE: "all the time", _EARLY: "at the start", _LATE: "at the end", (): "never"}


@dataclass(frozen=True)
class Choice:
    """A question with its right answer and the wrong answers.

    Args:
        kind: Type of the question, one of ``KINDS``.
        relation: What the question is about: ``View``, ``Sound`` or ``Both``.
        text: The question.
        answer: The right answer.
        options: Possible answers. Those that are hard to tell from the right one come first.
    """

    kind: str
    relation: str
    text: str
    answer: str
    options: Sequence[str]

    @property
    def wrong(self) -> list[str]:
        """The wrong answers, the hardest first."""
        return [option for option in self.options if option != self.answer]


def _scene(rng: Rng, first: int) -> Scene:
    """Return a scene with two or three things.

    One of them sounds all the time, or one sounds in the first half and another one in the second.
    """
    others = other_categories(rng, first, 3)
    drawn = [first, *others[: int(rng.integers(1, 3))]]
    heard: list[Spans] = [()] * len(drawn)
    hidden = []
    spans = [_WHOLE] if rng.random() < 0.5 else [_EARLY, _LATE]
    speakers = [int(i) for i in rng.permutation(len(drawn))[: len(spans)]]
    if rng.random() < 0.25:  # something that is not seen sounds instead of the first of them
        hidden.append(hidden_sound(rng, others[2], spans[0]))
        speakers, spans = speakers[1:], spans[1:]
    for speaker, span in zip(speakers, spans, strict=True):
        heard[speaker] = span
    objects = place_objects(rng, drawn, duration_s=CLIP_S, heard=heard)
    background = pick(rng, ("indoor", "outdoor"))
    return Scene((*objects, *hidden), CLIP_S, background, "objects", seed=int(rng.integers(1 << 30)))


def choices(scene: Scene) -> Iterator[Choice]:
    """Yield every multiple-choice question that the scene answers."""
    seen = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    heard = sorted((o for o in scene.objects if o.heard), key=lambda o: o.heard)
    both = [o for o in seen if o.heard]
    silent = [o for o in seen if not o.heard]
    # What is seen or heard comes first: without the other sense, such an option looks as good as the answer.
    nouns = list(dict.fromkeys([*(name(o) for o in (*seen, *heard)), *_VERBS]))
    if len(heard) == 1:
        yield Choice(
            "Come From", "Sound", "What does the sound in the video come from?", name(heard[0]), nouns
        )
        places = [*(at(p) for p in PLACES), "not in the video"]
        where = at(heard[0].place) if both else "not in the video"
        yield Choice("Where", "Both", "Where is the sounding object?", where, places)
    if len(both) == 1 and len(heard) == 1:
        answer = name(both[0])
        yield Choice("Which", "Both", "Which object makes the sound in the video?", answer, nouns)
        facts = {noun: f"the {noun} {_VERBS[noun]}" for noun in nouns}
        question = "What is happening in the video?"
        yield Choice("Happening", "Both", question, facts[answer], list(facts.values()))
    if len(silent) == 1 and heard:
        yield Choice("Which", "Both", "Which object is seen but not heard?", name(silent[0]), nouns)
    yield Choice("Which", "View", "Which object is on the left?", name(seen[0]), nouns)
    if len(heard) == 2:
        # The object that the question names is an easy wrong answer, so it comes last.
        early, late = name(heard[0]), name(heard[1])
        after = [*(n for n in nouns if n != early), early]
        yield Choice("Before Next", "Sound", f"Which sound comes after the {early}?", late, after)
        before = [*(n for n in nouns if n != late), late]
        yield Choice("Before Next", "Sound", f"Which sound comes before the {late}?", early, before)
    for obj in seen:
        question = f"When does the {name(obj)} make a sound?"
        yield Choice("When", "Both", question, _TIMES[obj.heard], list(_TIMES.values()))


def build_avqa_thu(split: str, index: int, seed: int) -> Item:
    """Return a question with four options in random order."""
    rng = rng_for(seed, "avqa_thu", split, index)
    kind = KINDS[balanced(seed, index, len(KINDS), "avqa_thu", split)]
    first = balanced(seed, index, len(CATEGORIES), "avqa_thu", split, "first")
    while True:
        scene = _scene(rng, first)
        options = [c for c in choices(scene) if c.kind == kind]
        if options:
            break
    wanted = pick(rng, sorted({c.answer for c in options}))
    chosen = pick(rng, [c for c in options if c.answer == wanted])
    place = balanced(seed, index, 4, "avqa_thu", split, "place")
    rest = [chosen.wrong[int(i)] for i in rng.permutation(3)]
    listed = [*rest[:place], chosen.answer, *rest[place:]]
    stem = clip_name(seed, "avqa_thu", split, index)
    number = int(rng_for(seed, "avqa_thu", split, index, "id").integers(1 << 30))
    target = f"{see_places(scene, 0.0)} {hear_spans(scene)} <answer>{chosen.answer}</answer>."
    columns = {
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
    return clip_item("avqa_thu", split, index, stem, scene, columns, target=target, answer=chosen.answer)
