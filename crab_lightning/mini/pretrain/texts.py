"""Questions without a clip: to copy, to look up, to conclude, to choose, and to call things by their classes.

What can be learnt from words is taught without a clip, which costs a tenth of the time. Every function draws
one question and its answer, given the random generator and the seed of the synthetic world.
"""

from __future__ import annotations

from crab_lightning.mini.pretrain.dialogue import NOUNS, TAGS, bare, numbers, relate, tagged
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
from crab_lightning.mini.world.scenes import Rng, intersect, pick, random_scene
from crab_lightning.mini.world.vocabulary import (
    ACTION_SOUNDS,
    ACTIONS,
    CATEGORIES,
    EMOTION_WORDS,
    LOOKS,
    NUMBERS,
    PLACES,
)

_CLASSES: dict[str, dict[str, str]] = {
    "AVE": {c.name: c.ave for c in CATEGORIES},
    "LLP": {c.name: c.llp for c in CATEGORIES},
    "UnAV": {c.name: c.unav for c in CATEGORIES},
    "MUSIC": {c.name: c.music for c in CATEGORIES if c.music},
    **{dataset.upper(): words for dataset, words in EMOTION_WORDS.items()},
    **{
        dataset.upper(): {
            f"{LOOKS[look]} with {ACTION_SOUNDS[sound]}": action.lower()
            for action, (look, sound) in actions.items()
        }
        for dataset, actions in ACTIONS.items()
    },
}
"""Name of a dataset -> what is seen and heard -> class of that dataset."""


def _fit(rng: Rng) -> QA:
    """Return a question which of two things is a third one; the question or the answer states all three."""
    one, two = (NOUNS[int(i)] for i in rng.choice(len(NOUNS), 2, replace=False))
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


def match(rng: Rng, seed: int) -> QA:
    """Return a question which of two things fits a third one; half of the questions ask for tags."""
    return _framed(*_fit(rng), rng) if rng.random() < 0.5 else _fit(rng)


def _framed(question: str, answer: str, rng: Rng) -> QA:
    """Return the question with a request for tags, and the answer with its last word in tags."""
    told, _, fits = answer.rpartition(" ")
    asked, last = tagged(question, fits, rng)
    return asked, f"{told} {last}".strip()


def recall(rng: Rng, seed: int, form: str = "any") -> QA:
    """Return a question that states where things are and asks for one by its name or its place.

    Args:
        rng: Makes all random choices.
        seed: Not used.
        form: ``again``: the answer repeats the name and then the place, which stands right behind the name in
            the question. A small model that can copy learns this within 200 steps. ``short``: the answer is
            the place only. ``any``: all other forms.
    """
    places = [PLACES[int(i)] for i in rng.permutation(3)[: 2 + int(rng.random() < 0.5)]]
    nouns = [NOUNS[int(i)] for i in rng.choice(len(NOUNS), len(places), replace=False)]
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


def _stated(rng: Rng, seed: int = 0) -> QA:
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
    word = NOUNS[int(rng.integers(len(NOUNS)))]
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


def call(rng: Rng, seed: int) -> QA:
    """Return a question how a dataset calls things, alone or with their times in tags.

    A language model of full size knows that "dog", "Dog", "dog barking" and "Bark" belong together.
    """
    dataset, called = pick(rng, tuple(_CLASSES.items()))
    nouns = [pick(rng, tuple(called)) for _ in range(int(rng.integers(1, 4)))]
    if dataset not in ("AVE", "LLP", "UnAV", "MUSIC") or rng.random() < 0.3:
        return f"{', '.join(nouns)}: in {dataset}?", ", ".join(called[noun] for noun in nouns)
    times = [sorted(2 * int(t) for t in rng.choice(6, 2, replace=False)) for _ in nouns]
    listed = [f"{a(noun)} {spans([(s, e)])}" for noun, (s, e) in zip(nouns, times, strict=True)]
    told = f"I {pick(rng, ('see', 'hear'))} {join(listed)}."
    tag, gap = pick(rng, TAGS), "," if dataset == "LLP" else ", "
    classes = "".join(
        f"<{tag}>{called[noun]}{gap}{tuples([(s, e)])}</{tag}>"
        for noun, (s, e) in zip(nouns, times, strict=True)
    )
    if rng.random() < 0.5:
        return f"{told} In {dataset}, in {tag} tags?", classes
    return f"Repeat: {told} Then in {dataset}, in {tag} tags.", f"{told} {classes}"


def choose(rng: Rng, seed: int) -> QA:
    """Return a question that lists its possible answers."""
    made = _stated if rng.random() < 0.5 else recall
    question, answer = made(rng, seed)
    while len(answer) > 30:  # answers with reasoning are no options
        question, answer = made(rng, seed)
    listed = [answer]
    for _ in range(50):
        other = made(rng, seed)[1]
        if len(other) <= 30 and other not in listed:
            listed.append(other)
        if len(listed) == 4:
            break
    listed = [listed[int(i)] for i in rng.permutation(len(listed))]
    asked = f"{question} {pick(rng, ('Options', 'Choose from'))}: {listed}"
    return (asked, answer) if rng.random() < 0.5 else tagged(asked, answer, rng)


def conclude(rng: Rng, seed: int) -> QA:
    """Return a question to repeat a text, to put it into tags, or to infer something from it.

    Texts are made of sentences of different examples, so that they do not teach how a task is solved.
    """
    makers = (_repeat, _repeat, _tag, _tag)
    plain = (_fit, _fit, _fit, _stated, _stated, _coordinates)
    chosen = int(rng.integers(len(makers) + len(plain)))
    if chosen < len(makers):
        return makers[chosen](rng, seed)
    qa = plain[chosen - len(makers)](rng)
    return (_framed if "fits" in qa[0] else tagged)(qa[0], bare(qa[1]), rng) if rng.random() < 0.4 else qa


def copy(rng: Rng, seed: int) -> QA:
    """Return a request to repeat words that stand in random order."""
    return _nouns_again(rng) if rng.random() < 0.5 else _repeat(rng, seed, mixed=1.0)


def _nouns_again(rng: Rng) -> QA:
    text = " ".join(NOUNS[int(i)] for i in rng.integers(0, len(NOUNS), int(rng.integers(3, 11))))
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
    return tagged("Say: " + answer, answer, rng)


def random_item(rng: Rng, seed: int, *datasets: str) -> Item:
    """Return a random training row of one of these datasets of Mini AV-UIE; of any dataset without names."""
    return make_item(pick(rng, datasets or tuple(DATASETS)), "train", int(rng.integers(1 << 31)), seed)
