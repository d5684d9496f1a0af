"""The forms in which questions are put to the base model, and conversations that need no clip.

A model that learns one form of a question cannot use what it sees in another form. So a question may come
plain, with a request to put the answer into tags, after another question that is answered first, or with
options. What can be inferred from words is taught without a clip, which costs a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

from crab_lightning.mini.world.datasets import DATASETS, make_item
from crab_lightning.mini.world.describe import QA
from crab_lightning.mini.world.item import Item
from crab_lightning.mini.world.phrases import (
    a,
    at,
    box_text,
    hear_spans,
    join,
    name,
    see_places,
    see_spans,
    spans,
    tuples,
)
from crab_lightning.mini.world.scenes import Rng, Scene, SceneObject, intersect, pick, random_scene
from crab_lightning.mini.world.vocabulary import CATEGORIES, NUMBERS, PLACES

_TAGS = ("answer", "answer", "answer", "event", "range", "obj", "name")
_WORDS = tuple(c.name for c in CATEGORIES)


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
        return _tagged(question, answer, rng)
    if form < 0.88:
        before, told = pool[int(rng.integers(len(pool)))]
        asked, framed = _tagged(f"{before} Then: {question}", bare(answer), rng)
        return asked, f"{told.removesuffix('.')}. {framed}"
    word = bare(answer)
    if word not in _WORDS:
        return question, answer
    options = [_WORDS[int(i)] for i in rng.choice(len(_WORDS), 4, replace=False)]
    if word not in options:
        options[int(rng.integers(4))] = word
    return f"{question} Choose from {', '.join(options)}.", word


def _tagged(question: str, answer: str, rng: Rng) -> QA:
    tag = pick(rng, _TAGS)
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


def _fit(rng: Rng) -> QA:
    """Return a question which of two things is a third one; the question or the answer states all three."""
    one, two = (_WORDS[int(i)] for i in rng.choice(len(_WORDS), 2, replace=False))
    asked = one if rng.random() < 0.5 else two
    low, high = (("one", "two"), ("first", "second"))[int(rng.integers(2))]
    verb, other = (("see", "hear"), ("hear", "see"))[int(rng.integers(2))]
    told = [f"I {other} {a(asked)}.", f"I {verb} {a(one)} first and {a(two)} second."]
    if rng.random() < 0.3:
        told.reverse()
    fits = low if asked == one else high
    if rng.random() < 0.5:
        ask = f"You {other}: {asked}. You {verb}: {one}, {two}. Say so and which fits, {low} or {high}."
        order = "first" if asked == one else "second"
        return ask, f"{' '.join(told)} The {asked} is {order}. {fits}"
    choice = f"{low} or {high}?"
    ask = pick(rng, (f"Which fits, {choice}", f"Is it {choice}", f"Match them: {choice}"))
    return f"{' '.join(told)} {ask}", fits


def matches(rng: Rng, count: int) -> list[QA]:
    """Return questions without a clip which of two things fits a third; half of them ask for tags.

    Args:
        rng: Makes all random choices.
        count: Number of questions.
    """
    return [_framed(*_fit(rng), rng) if rng.random() < 0.5 else _fit(rng) for _ in range(count)]


def _framed(question: str, answer: str, rng: Rng) -> QA:
    """Return the question with a request for tags, and the answer with its last word in tags."""
    told, _, fits = answer.rpartition(" ")
    asked, tagged = _tagged(question, fits, rng)
    return asked, f"{told} {tagged}".strip()


def recalls(rng: Rng, count: int, form: str = "any") -> list[QA]:
    """Return questions without a clip that state where things are and ask for one by its name or its place.

    Args:
        rng: Makes all random choices.
        count: Number of questions.
        form: ``again``: the answer repeats the name and then the place, which stands right behind the name in
            the question. A small model that can copy learns this within 200 steps. ``short``: the answer is
            the place only. ``any``: all other forms.
    """
    return [_recall(rng, form) for _ in range(count)]


def _recall(rng: Rng, form: str) -> QA:
    places = [PLACES[int(i)] for i in rng.permutation(3)[: 2 + int(rng.random() < 0.5)]]
    nouns = [_WORDS[int(i)] for i in rng.choice(len(_WORDS), len(places), replace=False)]
    boxes = [box_text(_box(rng)) for _ in places]
    chosen = int(rng.integers(len(nouns)))
    noun, place = nouns[chosen], places[chosen]
    short = ", ".join(f"{n} {p}" for n, p in zip(nouns, places, strict=True))
    if form == "again":
        return f"{short}. Say the {noun} and its place.", f"{noun} {place}"
    if form == "short":
        return f"{short}. {noun}?", place
    told = f"I see {join([f'{a(n)} {at(p)}' for n, p in zip(nouns, places, strict=True)])}."
    listed = " ".join(f"{n} {box}" for n, box in zip(nouns, boxes, strict=True))
    where = pick(rng, (f"Where is the {noun}?", f"On which side is the {noun}?"))
    forms = (
        (f"{short}. {where}", at(place)),
        (f"{told} {where}", at(place)),
        (f"{told} {where}", at(place)),
        (f"{told} What is {at(place)}?", a(noun)),
        (f"{listed} Give the box of the {noun}.", boxes[chosen]),
        (f"Things: {short}. Who is where? Then: {where}", f"{told} The {noun} is {at(place)}."),
    )
    return forms[int(rng.integers(len(forms)))]


def _stated(rng: Rng) -> QA:
    """Return a question about a scene that is described in the question."""
    scene = random_scene(rng, 10, 2)
    shown = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    moment = shown[0].seen[0][0] + 0.5
    options: list[QA] = []
    told = f"{see_spans(scene)} {hear_spans(scene)}"
    options += [
        (f"{told} {q}", answer) for q, answer in (*relate(scene, rng), *numbers(scene, rng)) if _told(q)
    ]
    present = [scene.objects[i] for i in scene.seen_at(moment)]
    there = see_places(scene, moment)
    for place in PLACES:
        found = [o for o in present if o.place == place]
        options.append((f"{there} What is {at(place)}?", join([a(name(o)) for o in found])))
    for obj in present:
        options.append((f"{there} Where is the {name(obj)}?", at(obj.place)))
    word = _WORDS[int(rng.integers(len(_WORDS)))]
    options.append((f"{there} Is there {a(word)}?", "yes" if word in [name(o) for o in present] else "no"))
    options.append((f"{there} How many things?", NUMBERS[len(present)]))
    both = [o for o in present if o.heard_at(moment)]
    heard = [scene.objects[i] for i in scene.heard_at(moment)]
    sound = f"I hear {join([a(name(o)) for o in heard])}."
    options += [
        (f"{sound} {there} Which of these is seen and heard?", join([a(name(o)) for o in both])),
        (
            f"{there} {sound} What is heard but not seen?",
            join([a(name(o)) for o in heard if o not in present]),
        ),
    ]
    for obj in shown:
        if obj.heard:
            common = intersect(obj.seen, obj.heard)
            facts = f"I see {a(name(obj))} {spans(obj.seen)}. I hear {a(name(obj))} {spans(obj.heard)}."
            options.append((f"{facts} When both?", tuples(common) if common else "never"))
    return options[int(rng.integers(len(options)))]


def _told(question: str) -> bool:
    """Return whether spans of time are enough to answer a question."""
    return not any(word in question for word in ("left", "right", "side", "drown", "come from"))


def _box(rng: Rng) -> tuple[int, int, int, int]:
    x, y = (int(v) for v in rng.integers(0, 160, 2))
    return x, y, x + int(rng.integers(30, 64)), y + int(rng.integers(30, 64))


def _coordinates(rng: Rng) -> QA:
    box = _box(rng)
    flat = box_text(box)
    corners = f"({box[0]},{box[1]})({box[2]},{box[3]})"
    way = int(rng.integers(3))
    if way == 0:
        return f"{flat} as corners?", corners
    if way == 1:
        return f"{corners} as a list?", flat
    return f"Copy {flat}", flat


def words(rng: Rng, seed: int, count: int) -> list[QA]:
    """Return questions without a clip: to repeat a text, to put it into tags, to infer from it.

    Texts are made of sentences of different examples, so that they do not teach how a task is solved.

    Args:
        rng: Makes all random choices.
        seed: Seed of the synthetic world.
        count: Number of questions.
    """
    makers = (_repeat, _repeat, _tag, _tag)
    plain = (_fit, _fit, _fit, _stated, _stated, _coordinates)
    found = []
    for _ in range(count):
        chosen = int(rng.integers(len(makers) + len(plain)))
        qa = makers[chosen](rng, seed) if chosen < len(makers) else plain[chosen - len(makers)](rng)
        if chosen >= len(makers) and rng.random() < 0.4:
            qa = (_framed if "fits" in qa[0] else _tagged)(qa[0], bare(qa[1]), rng)
        found.append(qa)
    return found


def copies(rng: Rng, seed: int, count: int) -> list[QA]:
    """Return requests to repeat words that stand in random order.

    Args:
        rng: Makes all random choices.
        seed: Seed of the synthetic world.
        count: Number of requests.
    """
    return [_nouns_again(rng) if rng.random() < 0.5 else _repeat(rng, seed, mixed=1.0) for _ in range(count)]


def _nouns_again(rng: Rng) -> QA:
    text = " ".join(_WORDS[int(i)] for i in rng.integers(0, len(_WORDS), int(rng.integers(3, 11))))
    return "Repeat: " + text, text


def _repeat(rng: Rng, seed: int, mixed: float = 0.3) -> QA:
    parts = []
    for _ in range(int(rng.integers(1, 3))):
        item = random_item(rng, seed)
        sentences = [part for part in item.target.split(". ") if part]
        parts.append(sentences[int(rng.integers(len(sentences)))])
    text = ". ".join(parts)
    if rng.random() < mixed:
        split = text.split(" ")
        text = " ".join(split[i] for i in rng.permutation(len(split)))
    return "Repeat: " + text, text


def _tag(rng: Rng, seed: int) -> QA:
    answer = random_item(rng, seed).answer
    if rng.random() < 0.3 or "<" in answer or "[" in answer:
        return "Say: " + answer, answer
    return _tagged("Say: " + answer, answer, rng)


def random_item(rng: Rng, seed: int, *datasets: str) -> Item:
    """Return a random training row of one of these datasets of Mini AV-UIE; of any dataset without names."""
    return make_item(pick(rng, datasets or tuple(DATASETS)), "train", int(rng.integers(1 << 31)), seed)
