from dataclasses import replace

import numpy as np
import pytest
import torch

from crab_lightning.media import log_mel
from crab_lightning.mini import (
    Scene,
    SceneObject,
    box_of,
    points_in,
    render_audio,
    render_frames,
    render_masks,
)
from crab_lightning.mini.world.scenes import place_objects
from crab_lightning.mini.world.sounds import PEAK, SOUNDS, loop
from crab_lightning.mini.world.sprites import SPRITES
from crab_lightning.mini.world.vocabulary import CATEGORIES

RATE = 16_000


def scene_of(*categories: int, seed: int = 0) -> Scene:
    return Scene(place_objects(np.random.default_rng(seed), list(categories), duration_s=4), 4)


@pytest.mark.parametrize("category", range(8))
def test_box_of_a_mask_is_the_extent_of_what_is_drawn(category: int) -> None:
    scene = scene_of(category, seed=category)
    for time_s in (0.5, 1.5):
        with_it = render_frames(scene, [time_s])[0].astype(int)
        without = render_frames(replace(scene, objects=()), [time_s])[0].astype(int)
        changed = np.abs(with_it - without).sum(-1) > 0
        found, drawn = box_of(render_masks(scene, time_s)[0]), box_of(changed)
        assert max(abs(a - b) for a, b in zip(found, drawn, strict=True)) <= 1


def test_a_box_fills_the_square_of_the_object() -> None:
    scene = scene_of(4)
    x1, y1, x2, y2 = box_of(render_masks(scene, 0.0)[0])
    side = scene.objects[0].size * 224
    assert abs(x2 - x1 + 1 - side) <= 2
    assert abs(y2 - y1 + 1 - side) <= 2


def test_a_later_object_hides_an_earlier_one() -> None:
    whole = ((0, 2),)
    back = SceneObject("dog", category=4, x=0.5, size=0.4, seen=whole)
    front = SceneObject("box", x=0.6, size=0.3, seen=whole)
    behind, before = render_masks(Scene((back, front), 2), 0.0)
    alone = render_masks(Scene((back,), 2), 0.0)[0]
    assert not (behind & before).any()
    assert (behind == (alone & ~before)).all()
    assert behind.sum() < alone.sum()


def test_an_object_out_of_its_time_is_not_drawn_and_has_no_box() -> None:
    scene = Scene((SceneObject("cat", category=5, seen=((1, 2),)),), 4)
    mask = render_masks(scene, 0.5)[0]
    assert not mask.any()
    with pytest.raises(ValueError, match="empty mask"):
        box_of(mask)


@pytest.mark.parametrize("sprite", SPRITES)
def test_points_lie_inside_the_mask(sprite: str) -> None:
    mask = render_masks(Scene((SceneObject(sprite, size=0.25, seen=((0, 1),)),), 1), 0.0)[0]
    points = points_in(mask)
    assert len(set(points)) == 3
    assert all(mask[y, x] for x, y in points)


def test_drawings_look_different_on_average() -> None:
    pictures = [
        render_frames(Scene((SceneObject(c.name, size=0.5, seen=((0, 1),)),), 1), [0.0])[0]
        for c in CATEGORIES
    ]
    colours = np.array([p[56:168, 56:168].reshape(-1, 3).mean(0) for p in pictures])
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e9 * np.eye(8)
    assert distances.min() > 12


def test_sound_has_energy_in_its_seconds_only() -> None:
    for sound in SOUNDS:
        scene = Scene((SceneObject(sound=sound, heard=((1, 2), (3, 4))),), 5)
        power = (render_audio(scene).reshape(5, RATE) ** 2).mean(1) ** 0.5
        assert power[[1, 3]].min() > 5 * power[[0, 2, 4]].max(), sound


def test_two_sounds_at_once_do_not_clip() -> None:
    assert all(np.abs(loop(s, p)).max() <= PEAK + 1e-4 for s in SOUNDS for p in (-1, 0, 1))


@pytest.mark.parametrize("start", [0, 8, 12])
def test_every_sound_of_a_family_is_told_by_any_short_window(start: int) -> None:
    """0.4 s is what the strided window of MUSIC-AVQA leaves of a 12 s clip at a time."""
    family = SOUNDS[start : {0: 8, 8: 12, 12: 15}[start]]

    def profile(wave: np.ndarray) -> np.ndarray:
        mel = log_mel(torch.from_numpy(np.ascontiguousarray(wave))).numpy()
        return np.concatenate([mel.mean(1) - mel.mean(), 3 * np.abs(np.diff(mel)).mean(1)])  # band and pulse

    def clip(sound: str, pitch: int) -> np.ndarray:
        return render_audio(Scene((SceneObject(sound=sound, heard=((0, 4),), pitch=pitch),), 4))

    known = {s: profile(clip(s, 0)) for s in family}
    for sound in family:
        for pitch in (-1, 1):
            for k in range(8000, 24000, 3700):
                heard = profile(clip(sound, pitch)[k : k + 6400])
                assert min(known, key=lambda s: float(np.square(known[s] - heard).sum())) == sound


def test_pixels_do_not_depend_on_sound_nor_sound_on_pixels() -> None:
    scene = scene_of(0, 4, 6)
    loud = replace(scene, objects=tuple(replace(o, heard=((0, 3),)) for o in scene.objects))
    unseen = replace(loud, objects=tuple(replace(o, seen=()) for o in loud.objects))
    assert (render_frames(scene, [0.5, 2.5]) == render_frames(loud, [0.5, 2.5])).all()
    assert (render_audio(loud) == render_audio(unseen)).all()


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no drawing is called 'unicorn'"):
        render_frames(Scene((SceneObject("unicorn", seen=((0, 1),)),), 1), [0.0])
    with pytest.raises(KeyError, match="no sound is called 'unicorn'"):
        render_audio(Scene((SceneObject(sound="unicorn", heard=((0, 1),)),), 1))
    with pytest.raises(KeyError, match="no background is called 'void'"):
        render_frames(Scene((), 1, "void"), [0.0])
