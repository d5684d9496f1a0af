"""Scenes: what is where, what is seen and heard when. No pixels and no samples yet.

Positions and sizes are fractions of the frame, times are seconds, intervals are half-open whole seconds.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from crab_lightning.mini.world.vocabulary import CATEGORIES, Category

Interval = tuple[int, int]
MotionKind = Literal["still", "hop", "left_right", "up_down", "circle", "shake"]
Rng = np.random.Generator

FRAME_PX = 224
"""Side of the frames written to disk; the released geometry stretches to it, so boxes keep."""
LATTICE_PX = 8
"""Centres and sizes are multiples of this: few coordinates, which a small model can learn."""


@dataclass(frozen=True)
class Motion:
    """How an object moves around its centre.

    Args:
        kind: ``hop`` jumps by ``amplitude`` to the right and back at every whole second.
        amplitude: Largest distance from the centre, as a fraction of the frame.
        period_s: Time of one round.
        phase: Start, as a fraction of the period.
    """

    kind: MotionKind = "still"
    amplitude: float = 0.0
    period_s: float = 2.0
    phase: float = 0.0

    def offset(self, time_s: float) -> tuple[float, float]:
        """Return the displacement (x, y) at a time."""
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
    """Something that may be seen, heard, or both.

    Args:
        sprite: What is drawn; a key of the sprite table. Ignored where ``seen`` is empty.
        sound: What is heard; a key of the timbre table. Ignored where ``heard`` is empty.
        category: Index into ``CATEGORIES``, or ``None`` for faces and tools.
        x: Centre, fraction of the frame width.
        y: Centre, fraction of the frame height.
        size: Side of the square that the sprite fills, fraction of the frame.
        motion: Movement around the centre.
        seen: Intervals in which it is drawn.
        heard: Intervals in which it sounds.
        loudness: Amplitude factor.
        pitch: -1, 0 or 1: a slightly lower or higher individual.
    """

    sprite: str = ""
    sound: str = ""
    category: int | None = None
    x: float = 0.5
    y: float = 0.5
    size: float = 0.3
    motion: Motion = field(default_factory=Motion)
    seen: tuple[Interval, ...] = ()
    heard: tuple[Interval, ...] = ()
    loudness: float = 1.0
    pitch: int = 0

    @property
    def kind(self) -> Category:
        """The category; only for objects that have one."""
        if self.category is None:
            raise ValueError(f"the {self.sprite or self.sound} has no category: it is a face or a tool")
        return CATEGORIES[self.category]

    @property
    def place(self) -> str:
        """Left, middle or right."""
        return "left" if self.x < 0.4 else "right" if self.x > 0.6 else "middle"

    def seen_at(self, time_s: float) -> bool:
        """Whether it is drawn at a time."""
        return covers(self.seen, time_s)

    def heard_at(self, time_s: float) -> bool:
        """Whether it sounds at a time."""
        return covers(self.heard, time_s)


@dataclass(frozen=True)
class Scene:
    """Everything that one clip shows and plays.

    Args:
        objects: Drawn in order, later ones in front.
        duration_s: Length in whole seconds.
        background: A key of the background table.
        family: Kind of scene, e.g. ``objects``, ``face``, ``action``.
        seed: Chooses the noise floor.
    """

    objects: tuple[SceneObject, ...]
    duration_s: int
    background: str = "grey"
    family: str = "objects"
    seed: int = 0

    def seen_at(self, time_s: float) -> list[int]:
        """Indices of the objects drawn at a time, from left to right."""
        indices = [i for i, o in enumerate(self.objects) if o.seen_at(time_s)]
        return sorted(indices, key=lambda i: self.objects[i].x)

    def heard_at(self, time_s: float) -> list[int]:
        """Indices of the objects that sound at a time."""
        return [i for i, o in enumerate(self.objects) if o.heard_at(time_s)]


def covers(intervals: tuple[Interval, ...], time_s: float) -> bool:
    """Whether a time lies in one of the half-open intervals."""
    # A frame at 2.2 s may arrive as 2.1999999; intervals have whole seconds, so a millisecond is safe.
    return any(start <= time_s + 1e-3 < end for start, end in intervals)


def intersect(first: tuple[Interval, ...], second: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """Intervals in which both hold."""
    common = [(max(a, c), min(b, d)) for a, b in first for c, d in second]
    return tuple(sorted((s, e) for s, e in common if s < e))


def rng_for(seed: int, *key: str | int) -> Rng:
    """Return the random stream of one named thing; the same whatever else is generated."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def balanced(seed: int, index: int, choices: int, *key: str | int) -> int:
    """Return entry ``index`` of a sequence in which every block of ``choices`` holds each choice once."""
    block, within = divmod(index, choices)
    return int(rng_for(seed, "balanced", *key, block).permutation(choices)[within])


def place_objects(
    rng: Rng,
    categories: list[int],
    *,
    duration_s: int,
    seen: list[tuple[Interval, ...]] | None = None,
    heard: list[tuple[Interval, ...]] | None = None,
    loudness: list[float] | None = None,
) -> tuple[SceneObject, ...]:
    """Put one to three objects side by side, in random order, on the lattice, without overlap.

    Args:
        rng: Random stream.
        categories: Category indices.
        duration_s: Clip length.
        seen: Intervals per object; the whole clip when left out.
        heard: Intervals per object; none when left out.
        loudness: Amplitude factor per object; 1 when left out.
    """
    count = len(categories)
    if not 1 <= count <= 3:
        raise ValueError(f"place_objects puts 1 to 3 objects in a frame, got {count}")
    whole: tuple[Interval, ...] = ((0, duration_s),)
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
            x_px -= 4  # the hop goes right; keep the pair of positions centred in its column
        objects.append(
            SceneObject(
                sprite=CATEGORIES[category].name,
                sound=CATEGORIES[category].name,
                category=category,
                x=x_px / FRAME_PX,
                y=y_px / FRAME_PX,
                size=size_px / FRAME_PX,
                motion=motion,
                seen=seen[i] if seen else whole,
                heard=heard[i] if heard else (),
                loudness=loudness[i] if loudness else 1.0,
                pitch=int(rng.integers(-1, 2)),
            )
        )
    return tuple(objects)


def hidden_sound(rng: Rng, category: int, heard: tuple[Interval, ...]) -> SceneObject:
    """An object that is heard and never seen."""
    name = CATEGORIES[category].name
    return SceneObject("", name, category, heard=heard, pitch=int(rng.integers(-1, 2)))


def random_scene(rng: Rng, duration_s: int = 10, step_s: int = 1) -> Scene:
    """Draw a scene freer than any task's: up to three things seen, up to two of them and one more heard.

    Args:
        rng: Random stream.
        duration_s: Length of the clip.
        step_s: Spans start and end on multiples of this.
    """

    def span() -> tuple[Interval, ...]:
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
    background = ("grey", "indoor", "outdoor", "sky", "lilac", "rose", "mint", "sand")[int(rng.integers(8))]
    return Scene(tuple(objects), duration_s, background, "objects", seed=int(rng.integers(1 << 30)))
