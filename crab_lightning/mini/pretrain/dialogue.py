"""The forms in which questions are put to the base model, and questions about a scene that compare and order.

A model that learns one form of a question cannot use what it sees in another form. So a question may come
plain, with a request to put the answer into tags, after another question that is answered first, or with
options.
"""

from __future__ import annotations

from collections.abc import Sequence

from crab_lightning.mini.world.describe import QA
from crab_lightning.mini.world.phrases import (
    a,
    name,
    tuples,
)
from crab_lightning.mini.world.scenes import Rng, Scene, SceneObject, intersect, pick
from crab_lightning.mini.world.vocabulary import (
    CATEGORIES,
    NUMBERS,
)

TAGS = ("answer", "answer", "answer", "event", "range", "obj", "name")
NOUNS = tuple(c.name for c in CATEGORIES)


def bare(answer: str) -> str:
    """Return an answer without its article."""
    first, _, rest = answer.partition(" ")
    return rest if first in ("a", "an") and " and " not in rest and "," not in rest else answer


def turns(pool: Sequence[QA], rng: Rng, most: int) -> list[QA]:
    """Choose up to ``most`` questions and a form for each.

    Args:
        pool: Questions about one clip, with exact answers.
        rng: Makes all random choices.
        most: Largest number of questions; at least half as many are taken.
    """
    count = int(rng.integers((most + 1) // 2, most + 1))
    again = len(pool) < count  # a question may come back in another form
    chosen = [pool[int(i)] for i in rng.choice(len(pool), count, replace=again)]
    return [_formed(qa, pool, rng) for qa in chosen]


def _formed(qa: QA, pool: Sequence[QA], rng: Rng) -> QA:
    question, answer = qa
    form = rng.random()
    if form < 0.5:
        return qa
    if form < 0.7:
        return tagged(question, answer, rng)
    if form < 0.88:
        before, told = pool[int(rng.integers(len(pool)))]
        asked, framed = tagged(f"{before} Then: {question}", bare(answer), rng)
        return asked, f"{told.removesuffix('.')}. {framed}"
    word = bare(answer)
    if word not in NOUNS:
        return question, answer
    options = [NOUNS[int(i)] for i in rng.choice(len(NOUNS), 4, replace=False)]
    if word not in options:
        options[int(rng.integers(4))] = word
    return f"{question} Choose from {', '.join(options)}.", word


def tagged(question: str, answer: str, rng: Rng) -> QA:
    """Return the question with a request for tags, and the answer in these tags."""
    tag = pick(rng, TAGS)
    wish = pick(rng, (f"Put it into {tag} tags.", f"Use <{tag}> tags.", f"Answer between {tag} tags."))
    return f"{question} {wish}", f"<{tag}>{answer}</{tag}>"


def relate(scene: Scene, rng: Rng) -> list[QA]:
    """Return questions that compare, count or order what is seen with what is heard."""
    seen = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    heard = [o for o in scene.objects if o.heard]
    if any(o.category is None for o in scene.objects):
        return []
    playing = [o for o in seen if o.heard]
    pairs: list[QA] = [
        (pick(rng, ("How many of the seen things sound?", "Count what is seen and sounds.")),
         NUMBERS[len(playing)]),
        ("How many of the seen things are silent?", NUMBERS[len(seen) - len(playing)]),
        ("How many kinds of things are seen?", NUMBERS[len({o.category for o in seen})]),
    ]  # fmt: skip
    if len(seen) > 1:
        pairs += [
            ("What is furthest left?", a(name(seen[0]))),
            ("What is furthest right?", a(name(seen[-1]))),
        ]
        one, two = (seen[int(i)] for i in rng.choice(len(seen), 2, replace=False))
        if one.category != two.category:
            left = "yes" if one.x < two.x else "no"
            pairs.append((f"Is the {name(one)} to the left of the {name(two)}?", left))
    for one in heard:
        for two in heard:
            if one.loudness != two.loudness:
                louder = "yes" if one.loudness > two.loudness else "no"
                pairs.append((f"Does the {name(one)} drown the {name(two)}?", louder))
                if one.loudness > two.loudness and one in seen and two in seen:
                    pairs.append(("On which side is the loud one?", one.place))
            if _length(one) != _length(two):
                longer = "yes" if _length(one) > _length(two) else "no"
                pairs.append((f"Does the {name(one)} go on for longer than the {name(two)}?", longer))
    pairs += _orders(playing, heard, rng)
    for obj in playing:
        always = "yes" if _length(obj) == scene.duration_s else "no"
        pairs.append((f"Does the {name(obj)} sound without a break?", always))
    return pairs


def _orders(playing: Sequence[SceneObject], heard: Sequence[SceneObject], rng: Rng) -> list[QA]:
    ranked = sorted(heard, key=lambda o: o.heard[0][0])
    if len(ranked) < 2 or ranked[0].heard[0][0] == ranked[1].heard[0][0]:
        return []
    pairs = [
        (f"What is heard after the {name(ranked[0])}?", a(name(ranked[1]))),
        (f"What is heard ahead of the {name(ranked[1])}?", a(name(ranked[0]))),
    ]
    if ranked[0] in playing:
        where = ranked[0].place
        pairs.append((pick(rng, ("Where does the earliest sound come from?", "Which side starts?")), where))
    return pairs


def _length(obj: SceneObject) -> int:
    return sum(end - start for start, end in obj.heard)


def numbers(scene: Scene, rng: Rng) -> list[QA]:
    """Return questions whose answers are spans of seconds written as pairs."""
    pairs: list[QA] = []
    for obj in scene.objects:
        if obj.category is None:
            continue
        for sense, times in (("seen", obj.seen), ("heard", obj.heard)):
            if times:
                pairs.append((f"{name(obj)} {sense}: start and end?", tuples(times)))
        common = intersect(obj.seen, obj.heard)
        if common:
            ask = pick(rng, ("seen and heard together: start and end?", "by eye and ear: start and end?"))
            pairs.append((f"{name(obj)} {ask}", tuples(common)))
    return pairs
