"""Descriptions of scenes: their objects, the place of each, and when each is seen and heard.

A scene holds no pixels and no audio samples; ``render`` makes both from it. Positions and sizes are fractions
of the frame. Times are seconds. Intervals start and end at whole seconds, and the end is not part of them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from crab_lightning.mini.world.vocabulary import CATEGORIES, Category

Interval = tuple[int, int]
Spans = tuple[Interval, ...]
MotionKind = Literal["still", "hop", "left_right", "up_down", "circle", "shake"]
Rng = np.random.Generator
T = TypeVar("T")

FRAME_PX = 224
"""Side of the frames that are written to disk.

The processing of AV-UIE v2 resizes frames to this side, so the boxes keep their coordinates.
"""
LATTICE_PX = 8
"""Sizes are multiples of this, and centres of its half. So a small model must learn few coordinates."""


@dataclass(frozen=True)
class Motion:
    """The movement of an object around its centre.

    Args:
        kind: Form of the movement. ``hop`` alternates at every whole second between the centre and the point
            ``amplitude`` to the right of it. ``shake`` is drawn as ``left_right`` is.
        amplitude: Largest distance from the centre, as a fraction of the frame.
        period_s: Duration of one cycle. A hop always takes 2 s.
        phase: Part of the cycle that has passed at time 0, as a fraction.
    """

    kind: MotionKind = "still"
    amplitude: float = 0.0
    period_s: float = 2.0
    phase: float = 0.0

    def offset(self, time_s: float) -> tuple[float, float]:
        """Return the distance (x, y) from the centre at a time, as fractions of the frame."""
        if self.kind == "still":
            return 0.0, 0.0
        if self.kind == "hop":
            return self.amplitude * (math.floor(time_s + 1e-6 + self.phase * 2) % 2), 0.0
        angle = 2 * math.pi * (time_s / self.period_s + self.phase)
        across, down = self.amplitude * math.sin(angle), self.amplitude * math.cos(angle)
        if self.kind == "circle":
            return across, down
        if self.kind == "up_down":
            return 0.0, across
        return across, 0.0


@dataclass(frozen=True)
class SceneObject:
    """An object that can be seen, heard, or both.

    Args:
        sprite: Name of its drawing, one of ``SPRITES``; empty for an object that is never seen.
        sound: Name of its sound, one of ``SOUNDS``; not used if ``heard`` is empty.
        category: Index into ``CATEGORIES``, or ``None`` for faces and tools.
        x: Horizontal place of the centre, as a fraction of the frame width.
        y: Vertical place of the centre, as a fraction of the frame height.
        size: Side of the square that the drawing fills, as a fraction of the frame.
        motion: Movement around the centre.
        seen: Intervals in which the object is drawn.
        heard: Intervals in which the object sounds.
        loudness: Factor for the amplitude of the sound.
        pitch: -1, 0 or 1 for a sound that is slightly lower, unchanged or slightly higher.
    """

    sprite: str = ""
    sound: str = ""
    category: int | None = None
    x: float = 0.5
    y: float = 0.5
    size: float = 0.3
    motion: Motion = field(default_factory=Motion)
    seen: Spans = ()
    heard: Spans = ()
    loudness: float = 1.0
    pitch: int = 0

    @property
    def kind(self) -> Category:
        """The category of the object.

        Raises:
            ValueError: If the object has no category.
        """
        if self.category is None:
            raise ValueError(
                f"the object {self.sprite or self.sound!r} is a face or a tool and has no category; ask only "
                "objects for it whose field `category` is not None"
            )
        return CATEGORIES[self.category]

    @property
    def place(self) -> str:
        """The part of the frame that holds the centre: ``left``, ``middle`` or ``right``."""
        return "left" if self.x < 0.4 else "right" if self.x > 0.6 else "middle"

    def seen_at(self, time_s: float) -> bool:
        """Whether the object is drawn at a time."""
        return covers(self.seen, time_s)

    def heard_at(self, time_s: float) -> bool:
        """Whether the object sounds at a time."""
        return covers(self.heard, time_s)


@dataclass(frozen=True)
class Scene:
    """All that one clip shows and plays.

    Args:
        objects: The objects. Later objects are drawn in front of earlier ones.
        duration_s: Length in whole seconds.
        background: Name of the background, one of ``BACKGROUNDS``.
        family: Kind of scene: ``objects``, ``events``, ``music``, ``face`` or ``action``.
        seed: Number from which the start of the background noise follows.
    """

    objects: tuple[SceneObject, ...]
    duration_s: int
    background: str = "grey"
    family: str = "objects"
    seed: int = 0

    def seen_at(self, time_s: float) -> list[int]:
        """Return the indices of the objects that are drawn at a time, from left to right."""
        indices = [i for i, o in enumerate(self.objects) if o.seen_at(time_s)]
        return sorted(indices, key=lambda i: self.objects[i].x)

    def heard_at(self, time_s: float) -> list[int]:
        """Return the indices of the objects that sound at a time."""
        return [i for i, o in enumerate(self.objects) if o.heard_at(time_s)]


def covers(intervals: Spans, time_s: float) -> bool:
    """Return whether a time lies in one of the half-open intervals."""
    # Rounding can turn the time 3 s of a frame into 2.9999999 s. Intervals start at whole seconds, so adding
    # a millisecond to the time is safe.
    return any(start <= time_s + 1e-3 < end for start, end in intervals)


def intersect(first: Spans, second: Spans) -> Spans:
    """Return the times that lie in intervals of both lists, as intervals in order."""
    common = [(max(a, c), min(b, d)) for a, b in first for c, d in second]
    return tuple(sorted((s, e) for s, e in common if s < e))


def rng_for(seed: int, *key: str | int) -> Rng:
    """Return the random generator of the thing that ``key`` names.

    It depends on ``seed`` and ``key`` only, not on what was generated before.
    """
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def balanced(seed: int, index: int, choices: int, *key: str | int) -> int:
    """Return entry ``index`` of a random sequence of the numbers below ``choices``.

    Each block of ``choices`` entries holds every number once. ``key`` names the sequence.
    """
    block, within = divmod(index, choices)
    return int(rng_for(seed, "balanced", *key, block).permutation(choices)[within])


def pick(rng: Rng, options: Sequence[T]) -> T:
    """Return one of the options; all are equally likely."""
    return options[int(rng.integers(len(options)))]


def other_categories(
    rng: Rng, first: int, count: int, among: Iterable[int] = range(len(CATEGORIES))
) -> list[int]:
    """Return ``count`` different categories of ``among``, none of which is ``first``, in random order."""
    return [int(c) for c in rng.choice([c for c in among if c != first], count, replace=False)]


def place_objects(
    rng: Rng,
    categories: list[int],
    *,
    duration_s: int,
    seen: list[Spans] | None = None,
    heard: list[Spans] | None = None,
    loudness: list[float] | None = None,
) -> tuple[SceneObject, ...]:
    """Place one to three objects side by side, without overlap and in random order.

    Args:
        rng: Random generator.
        categories: Category index of each object.
        duration_s: Length of the clip.
        seen: Intervals in which each object is seen; by default the whole clip.
        heard: Intervals in which each object sounds; by default none.
        loudness: Factor for the amplitude of each object; by default 1.

    Returns:
        The objects, in the order of ``categories``.

    Raises:
        ValueError: If there are no categories, or more than three.
    """
    count = len(categories)
    if not 1 <= count <= 3:
        raise ValueError(f"place_objects can place 1 to 3 objects in a frame, but got {count}")
    whole: Spans = ((0, duration_s),)
    slots = {1: [int(rng.integers(3))], 2: [0, 2], 3: [0, 1, 2]}[count]
    order = rng.permutation(count)
    objects = []
    for i, category in enumerate(categories):
        slot = slots[int(order[i])]
        size_px = LATTICE_PX * int(rng.integers(7, 9 if count == 3 else 10))  # 56..64, or 56..72 px
        spread = 0 if slot == 1 or count == 3 else 8
        x_px = (40, 112, 184)[slot] + (spread if slot == 0 else -spread) * int(rng.integers(0, 2))
        y_px = LATTICE_PX * int(rng.integers(6, 23))  # 48..176
        motion = Motion("still")
        if slot != 2:
            motion = Motion("hop", LATTICE_PX / FRAME_PX, 2.0, 0.5 * int(rng.integers(2)))
            x_px -= 4  # the hop goes to the right; this keeps the mean of both positions in the column
        noun = CATEGORIES[category].name
        place = x_px / FRAME_PX, y_px / FRAME_PX, size_px / FRAME_PX
        times = seen[i] if seen else whole, heard[i] if heard else ()
        loud, pitch = loudness[i] if loudness else 1.0, int(rng.integers(-1, 2))
        objects.append(SceneObject(noun, noun, category, *place, motion, *times, loud, pitch))
    return tuple(objects)


def hidden_sound(rng: Rng, category: int, heard: Spans) -> SceneObject:
    """Return an object that is heard but never seen."""
    name = CATEGORIES[category].name
    return SceneObject("", name, category, heard=heard, pitch=int(rng.integers(-1, 2)))


def random_scene(rng: Rng, duration_s: int = 10, step_s: int = 1) -> Scene:
    """Return a random scene that follows the rules of no task.

    It has one to three objects that are seen. Up to two of them sound, and sometimes an object that is not
    seen.

    Args:
        rng: Random generator.
        duration_s: Length of the clip.
        step_s: Intervals start and end at multiples of this.
    """

    def span() -> Spans:
        if rng.random() < 0.3:
            return ((0, duration_s),)
        start, end = sorted(int(i) for i in rng.choice(duration_s // step_s + 1, 2, replace=False))
        return ((start * step_s, end * step_s),)

    count = int(rng.integers(1, 4))
    drawn = [int(c) for c in rng.choice(len(CATEGORIES), count + 1, replace=False)]
    steady = rng.random() < 0.3
    seen = [((0, duration_s),) if steady else span() for _ in range(count)]
    heard = [span() if i < 2 and rng.random() < 0.6 else () for i in range(count)]
    objects = list(place_objects(rng, drawn[:count], duration_s=duration_s, seen=seen, heard=heard))
    if rng.random() < 0.3:
        objects.append(hidden_sound(rng, drawn[count], span()))
    background = pick(rng, ("grey", "indoor", "outdoor", "sky", "lilac", "rose", "mint", "sand"))
    return Scene(tuple(objects), duration_s, background, "objects", seed=int(rng.integers(1 << 30)))
