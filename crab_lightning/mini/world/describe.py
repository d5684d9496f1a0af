"""Questions and answers about any scene, with which a base model learns to see and hear.

The answers use the phrases of the 19 tasks, but the questions use other words. A model that was trained on
them can name what it sees and hears. It knows neither the prompts of the tasks nor which emotion or action
belongs to a look and a sound.
"""

from __future__ import annotations

from collections.abc import Sequence

from crab_lightning.mini.world.families.captions import caption
from crab_lightning.mini.world.phrases import (
    a,
    at,
    box_text,
    join,
    name,
    points_text,
    see_places,
    sounding,
    spans,
)
from crab_lightning.mini.world.render import box_of, points_in, render_masks
from crab_lightning.mini.world.scenes import Rng, Scene, SceneObject, intersect, pick
from crab_lightning.mini.world.vocabulary import (
    ACTION_SOUNDS,
    CATEGORIES,
    FACES,
    LOOKS,
    NUMBERS,
    PLACES,
    VOICES,
)

QA = tuple[str, str]

_MOTIONS = {
    "still": "it stays still",
    "hop": "it hops left and right",
    "left_right": "it moves left and right",
    "up_down": "it moves up and down",
    "circle": "it moves in a circle",
    "shake": "it shakes",
}


def _ask(rng: Rng, *wordings: str) -> str:
    return pick(rng, wordings)


def _other(rng: Rng, objects: Sequence[SceneObject]) -> str:
    """Return the name of a category that none of the objects has."""
    return pick(rng, [c.name for i, c in enumerate(CATEGORIES) if all(o.category != i for o in objects)])


def _look(obj: SceneObject) -> str:
    """Return the look of an action that an object performs."""
    return "face" if obj.sprite.startswith("face_") else obj.sprite


def _nouns(objects: Sequence[SceneObject]) -> str:
    return join([a(name(o)) for o in objects])


def describe_picture(scene: Scene, time_s: float, rng: Rng) -> list[QA]:
    """Return questions about one frame: its objects, their number, places, colours, boxes and points.

    Args:
        scene: The scene.
        time_s: Time of the frame.
        rng: Random generator for the wordings.
    """
    indices = scene.seen_at(time_s)
    seen = [scene.objects[i] for i in indices]
    pairs = _face_and_tool(seen, rng) + _background(scene, rng)
    if any(o.category is None for o in seen):
        return pairs
    ask = _ask(rng, "What is in the picture?", "Name what you see and its place.", "Who is where?")
    pairs += [
        (ask, see_places(scene, time_s)),
        (_ask(rng, "How many things are seen?", "Count what you see."), NUMBERS[len(seen)]),
    ]
    masks = render_masks(scene, time_s)
    nouns = [name(o) for o in seen]
    for i, obj in zip(indices, seen, strict=True):
        noun, colour = name(obj), obj.kind.colour
        pairs.append((f"What colour is the {noun}?", colour))
        pairs.append((f"Is there {a(noun)} in the picture?", "yes"))
        if nouns.count(noun) > 1:
            continue
        box, points = box_of(masks[i]), points_in(masks[i])
        pairs += [
            (_ask(rng, f"Where is the {noun}?", f"On which side is the {noun}?"), at(obj.place)),
            (_ask(rng, f"Give the box of the {noun}.", f"Put a box around the {noun}."), box_text(box)),
            (_ask(rng, f"Mark the {noun}.", f"Give three points on the {noun}."), points_text(points)),
            (f"Give box and points of the {colour} thing.", f"{box_text(box)} {points_text(points)}"),
            (f"Give the corners of the {noun}.", "({},{})({},{})".format(*box)),
            (f"What is in the box {box_text(box)}?", a(noun)),
            (f"What is at {points_text(points[:1])}?", a(noun)),
        ]
    if seen:
        boxes = " ".join(f"{n} {box_text(box_of(masks[i]))}" for i, n in zip(indices, nouns, strict=True))
        pairs.append((_ask(rng, "Give all boxes.", "Put a box around each thing."), boxes))
    missing = _other(rng, seen)
    pairs.append((f"Is there {a(missing)} in the picture?", "no"))
    pairs.append((f"Where is the {missing}?", "it is not here"))
    for place in PLACES:
        there = [o for o in seen if o.place == place]
        pairs.append((_ask(rng, f"What is {at(place)}?", f"Look {at(place)}: what is it?"), _nouns(there)))
    return pairs


def _background(scene: Scene, rng: Rng) -> list[QA]:
    if scene.background in ("indoor", "outdoor"):
        return [(_ask(rng, "What place is it?", "Is this indoor or outdoor?"), scene.background)]
    return [(_ask(rng, "What colour is the background?", "Which colour is behind?"), scene.background)]


def _face_and_tool(seen: Sequence[SceneObject], rng: Rng) -> list[QA]:
    pairs = []
    for obj in seen:
        if obj.sprite.startswith("face_"):
            look = obj.sprite.split("_")[1]
            ask = _ask(rng, "How does the face look?", "Describe the face.", "What do eyes and mouth show?")
            pairs.append((ask, FACES[look]))
        elif obj.category is None:
            pairs.append((_ask(rng, "What tool is it?", "Name the thing."), a(obj.sprite)))
    return pairs


def describe_video(scene: Scene, rng: Rng, clock: bool | None = None) -> list[QA]:
    """Return questions about all frames: what is seen, when, and how it moves.

    Args:
        scene: The scene.
        rng: Random generator for wordings and times.
        clock: Whether questions may ask for seconds. By default they may, except about music scenes, because
            the model hears only parts of these.
    """
    shown = [o for o in scene.objects if o.seen]
    pairs = _face_and_tool(shown, rng) + _background(scene, rng)
    for obj in shown:
        thing = name(obj) if obj.category is not None else "thing"
        ask = _ask(rng, f"How does the {thing} move?", f"What is the motion of the {thing}?")
        pairs.append((ask, _MOTIONS[obj.motion.kind]))
        if obj.category is None and scene.family == "action":
            ask = _ask(rng, "What do you see?", "Describe what is shown.")
            pairs.append((ask, f"I see {LOOKS[_look(obj)]}."))
    if any(o.category is None for o in shown):
        return pairs
    shown.sort(key=lambda o: o.x)
    pairs.append((_ask(rng, "What does the video show?", "Name everything shown."), _nouns(shown)))
    missing = _other(rng, shown)
    pairs.append((f"Is {a(missing)} ever seen?", "no"))
    pairs += [(f"Is {a(name(o))} ever seen?", "yes") for o in shown]
    if _has_clock(scene, clock):
        pairs += _timeline(scene, shown, rng, "seen")
    return pairs


def describe_audio(scene: Scene, rng: Rng, clock: bool | None = None) -> list[QA]:
    """Return questions about the sound: what is heard, when, how loud, and how a voice sounds.

    Args:
        scene: The scene.
        rng: Random generator for wordings and times.
        clock: Whether questions may ask for seconds, as in :func:`describe_video`.
    """
    voices = [o for o in scene.objects if o.heard and o.category is None]
    if voices:
        return [_uncategorised_sound(o, rng) for o in voices]
    heard = sounding(scene)
    ordered = sorted(heard, key=lambda o: o.category or 0)
    pairs: list[QA] = [
        (_ask(rng, "What is heard?", "Listen: what sounds?", "Name every sound."), _nouns(ordered)),
        (_ask(rng, "How many things are heard?", "Count the sounds."), NUMBERS[len(heard)]),
    ]
    missing = _other(rng, heard)
    pairs.append((_ask(rng, f"Is {a(missing)} heard?", f"Does {a(missing)} sound?"), "no"))
    for obj in heard:
        noun = name(obj)
        pairs.append((_ask(rng, f"Is {a(noun)} heard?", f"Does {a(noun)} sound?"), "yes"))
        if len({o.loudness for o in heard}) > 1:
            pairs.append((f"Is the {noun} loud or soft?", "loud" if obj.loudness >= 1 else "soft"))
    if len(heard) > 1 and heard[0].heard[0][0] < heard[1].heard[0][0]:
        pairs.append((_ask(rng, "Which sound starts first?", "Who is heard first?"), a(name(heard[0]))))
        pairs.append(("In which order do the sounds start?", ", ".join(name(o) for o in heard)))
    if _has_clock(scene, clock):
        pairs += _timeline(scene, heard, rng, "heard")
    return pairs


def _uncategorised_sound(obj: SceneObject, rng: Rng) -> QA:
    if obj.sound.startswith("voice_"):
        ask = _ask(rng, "How does the voice sound?", "Describe the voice.", "How is it said?")
        return ask, VOICES[obj.sound.removeprefix("voice_")]
    return _ask(rng, "What is heard?", "Listen: what sounds?"), ACTION_SOUNDS[obj.sound]


def _has_clock(scene: Scene, clock: bool | None) -> bool:
    return scene.family != "music" if clock is None else clock


def _timeline(scene: Scene, objects: Sequence[SceneObject], rng: Rng, sense: str) -> list[QA]:
    """Return questions about the seconds in which objects are ``seen`` or ``heard``, as ``sense`` says."""

    def at_second(second: int) -> list[SceneObject]:
        return [o for o in objects if getattr(o, f"{sense}_at")(second + 0.5)]

    second, seconds = int(rng.integers(scene.duration_s)), range(scene.duration_s)
    dense = ", ".join(f"{t} {' '.join(name(o) for o in at_second(t)) or 'nothing'}" for t in seconds)
    now = at_second(second)
    whole = join([f"{a(name(o))} {spans(getattr(o, sense))}" for o in objects])
    pairs = [
        (_ask(rng, f"What is {sense} in each second?", f"Second by second, what is {sense}?"), dense),
        (_ask(rng, f"What is {sense} at second {second}?", f"At {second}, what is {sense}?"), _nouns(now)),
        (_ask(rng, f"What is {sense} and when?", f"Give all times at which something is {sense}."), whole),
    ]
    for obj in objects:
        noun, times = name(obj), getattr(obj, sense)
        when = _ask(rng, f"When is the {noun} {sense}?", f"From when to when is the {noun} {sense}?")
        pairs += [
            (when, spans(times)),
            (f"At which second is the {noun} first {sense}?", str(times[0][0])),
            (f"Until which second is the {noun} {sense}?", str(times[-1][1])),
            (f"Is the {noun} {sense} at second {second}?", "yes" if obj in now else "no"),
        ]
    return pairs


def describe_moment(scene: Scene, time_s: float, rng: Rng) -> list[QA]:
    """Return questions about one frame and the sound at its time: which object sounds, and where it is.

    There are none if a face or a tool is seen.

    Args:
        scene: The scene.
        time_s: Time of the frame.
        rng: Random generator for the wordings.
    """
    seen = [scene.objects[i] for i in scene.seen_at(time_s)]
    if any(o.category is None for o in seen):
        return []
    heard = [scene.objects[i] for i in scene.heard_at(time_s)]
    heard.sort(key=lambda o: o.category or 0)
    loud = [o for o in seen if o in heard]
    pairs = [
        (_ask(rng, "Who is seen and who is heard?", "What do eyes and ears tell?"),
         f"{see_places(scene, time_s)} I hear {_nouns(heard)}."),
        (_ask(rng, "Which thing in the picture sounds?", "Who makes the noise?"), _nouns(loud)),
        (_ask(rng, "Which thing in the picture is silent?", "Who is quiet?"),
         _nouns([o for o in seen if o not in heard])),
        ("What is heard but not in the picture?", _nouns([o for o in heard if o not in seen])),
    ]  # fmt: skip
    for obj in seen:
        pairs.append((f"Does the {name(obj)} {at(obj.place)} sound?", "yes" if obj in heard else "no"))
    if len(loud) == 1:
        mask = render_masks(scene, time_s)[scene.objects.index(loud[0])]
        box, place = box_of(mask), at(loud[0].place)
        pairs += [
            (_ask(rng, "Where does the sound come from?", "On which side is the noise made?"), place),
            (_ask(rng, "Put a box around what sounds.", "Give the box of the noise maker."), box_text(box)),
            ("Give the corners of what sounds.", "({},{})({},{})".format(*box)),
            ("Mark what sounds with three points.", points_text(points_in(mask))),
        ]
    return pairs


def describe(scene: Scene, rng: Rng, clock: bool | None = None) -> list[QA]:
    """Return questions about a whole clip: about what is seen, about what is heard, and about both together.

    Args:
        scene: The scene.
        rng: Random generator for wordings and times.
        clock: Whether questions may ask for seconds, as in :func:`describe_video`.

    Returns:
        Pairs of question and answer. Every answer is exact.
    """
    pairs = describe_video(scene, rng, clock) + describe_audio(scene, rng, clock)
    for obj in scene.objects:
        if scene.family == "face":
            look, voice = FACES[obj.sprite.split("_")[1]], VOICES[obj.sound.removeprefix("voice_")]
            ask = _ask(rng, "Describe the person.", "How does the person look and sound?")
            pairs.append((ask, f"{look} and {voice}"))
        elif scene.family == "action":
            both = f"I see {LOOKS[_look(obj)]}. I hear {ACTION_SOUNDS[obj.sound]}."
            pairs.append(("What do you see and hear?", both))
    if scene.family in ("face", "action"):
        return pairs
    shown = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    if all(o.seen == ((0, scene.duration_s),) for o in shown):
        pairs.append((_ask(rng, "Sum the clip up.", "Tell in a sentence what happens."), caption(scene)))
        pairs += [
            (q, answer) for q, answer in describe_picture(scene, 0.0, rng) if not {"[", "("} & {*q, *answer}
        ]
    pairs += [
        (_ask(rng, "Which things are seen and also heard?", "What is both seen and heard?"),
         _nouns([o for o in shown if o.heard])),
        (_ask(rng, "What is seen but silent?", "Which things never sound?"),
         _nouns([o for o in shown if not o.heard])),
        (_ask(rng, "What is heard but never seen?", "Which sound has no picture?"),
         _nouns(sorted((o for o in scene.objects if o.heard and not o.seen), key=lambda o: o.category or 0))),
    ]  # fmt: skip
    if _has_clock(scene, clock):
        for obj in shown:
            noun, common = name(obj), intersect(obj.seen, obj.heard)
            eyes = f"When do eyes and ears both meet the {noun}?"
            ask = _ask(rng, f"When is the {noun} seen and heard?", eyes)
            pairs.append((ask, spans(common) if common else "never"))
    return pairs


def describe_pair(first: Scene, second: Scene, rng: Rng, sense: str, query: Scene | None = None) -> list[QA]:
    """Return questions about two clips in a row, and about which of them belongs to a third clip.

    Args:
        first: The first clip.
        second: The second clip.
        rng: Random generator for the wordings.
        sense: ``seen`` if the clips are videos, ``heard`` if they are sounds.
        query: The third clip: a sound for two videos, a video for two sounds. What it plays or shows is in
            exactly one of the two clips.
    """
    ones, twos = ([o for o in scene.objects if getattr(o, sense)] for scene in (first, second))
    what, other, verb = ("videos", "heard", "hear") if sense == "seen" else ("sounds", "seen", "see")
    told = f"{_nouns(ones)} first and {_nouns(twos)} second"
    pairs = [
        (_ask(rng, f"What do the two {what} hold?", f"Compare the {what}."), told),
        (_ask(rng, f"What is {sense} first?", f"What is {sense} in the first of the {what}?"), _nouns(ones)),
        (
            _ask(rng, f"What is {sense} second?", f"What is {sense} in the second of the {what}?"),
            _nouns(twos),
        ),
    ]
    for mine, others, place in ((ones, twos, "first"), (twos, ones, "second")):
        for obj in mine:
            if all(o.category != obj.category for o in others):
                pairs.append((f"Is the {name(obj)} {sense} first or second?", place))
    if query is not None:
        asked = [o for o in query.objects if getattr(o, other)]
        in_first = any(o.category == q.category for q in asked for o in ones)
        ask = _ask(rng, f"Does what is {other} belong to first or second?", f"Which fits what is {other}?")
        pairs.append((ask, "first" if in_first else "second"))
        pairs.append((_ask(rng, f"What do you {verb}?", f"What is {other}?"), _nouns(asked)))
    return pairs
