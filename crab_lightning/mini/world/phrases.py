"""The sentence forms that all tasks share.

The reasoning of every task says first ``I see ...`` and ``I hear ...`` in the same words, so that what a
model learns from one task helps with the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crab_lightning.mini.world.scenes import Interval, Scene, SceneObject
from crab_lightning.mini.world.vocabulary import CATEGORIES


def a(noun: str) -> str:
    """Return a noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def join(parts: Sequence[str]) -> str:
    """Return ``x``, ``x and y`` or ``x, y and z``, or ``nothing`` if there are no parts."""
    if not parts:
        return "nothing"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def name(obj: SceneObject) -> str:
    """Return the noun of an object."""
    return obj.kind.name


def see_places(scene: Scene, time_s: float) -> str:
    """Return a sentence about what is seen at a time and where, from left to right."""
    objects = [scene.objects[i] for i in scene.seen_at(time_s)]
    return f"I see {join([f'{a(name(o))} {at(o.place)}' for o in objects])}."


def places_of(objects: Sequence[SceneObject]) -> str:
    """Return a sentence about the places of one or more objects.

    Example: ``The dog is on the left and the cat in the middle.``
    """
    first, *others = objects
    told = join([f"{name(first)} is {at(first.place)}", *(f"the {name(o)} {at(o.place)}" for o in others)])
    return f"The {told}."


def at(place: str) -> str:
    """Return ``on the left``, ``in the middle`` or ``on the right``."""
    return "in the middle" if place == "middle" else f"on the {place}"


def hear(names: Iterable[str]) -> str:
    """Return a sentence about what is heard, in the order of the categories, without times."""
    order = {c.name: i for i, c in enumerate(CATEGORIES)}
    return f"I hear {join([a(n) for n in sorted(set(names), key=lambda n: order[n])])}."


def spans(intervals: Iterable[Interval]) -> str:
    """Return ``from 0 to 2 and from 6 to 10``."""
    return join([f"from {start} to {end}" for start, end in intervals])


def see_spans(scene: Scene) -> str:
    """Return a sentence about what is seen and when, from left to right."""
    objects = sorted((o for o in scene.objects if o.seen), key=lambda o: o.x)
    return f"I see {join([f'{a(name(o))} {spans(o.seen)}' for o in objects])}."


def hear_spans(scene: Scene) -> str:
    """Return a sentence about what is heard and when, in the order of the first times."""
    return f"I hear {join([f'{a(name(o))} {spans(o.heard)}' for o in sounding(scene)])}."


def sounding(scene: Scene) -> list[SceneObject]:
    """Return the objects that sound at some time, sorted by these times and then by category."""
    return sorted((o for o in scene.objects if o.heard), key=lambda o: (o.heard, o.category))


def both_spans(events: Sequence[tuple[SceneObject, Sequence[Interval]]]) -> str:
    """Return a sentence about the times at which objects are both seen and heard.

    Example: ``I see and hear a cat from 0 to 2.``
    """
    return f"I see and hear {join([f'{a(name(o))} {spans(times)}' for o, times in events])}."


def tuples(intervals: Iterable[Interval], between: str = "") -> str:
    """Return ``(0 2)(6 10)``, with the text ``between`` after each pair but the last."""
    return between.join(f"({start} {end})" for start, end in intervals)


def box_text(box: tuple[int, int, int, int]) -> str:
    """Return a box in the spelling of the released targets: ``[x1,y1,x2,y2]``."""
    return "[" + ",".join(map(str, box)) + "]"


def points_text(points: Iterable[tuple[int, int]]) -> str:
    """Return points in the spelling of the released targets: ``[x,y],[x,y]``."""
    return ",".join(f"[{x},{y}]" for x, y in points)
