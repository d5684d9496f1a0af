"""The mini base model can be made again, by the script that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

import crab_lightning
from crab_lightning.mini.world import rng_for
from crab_lightning.pretrain.corpus import KINDS, draw
from crab_lightning.pretrain.mini import SIZES, Leg, PretrainConfig, pretrain_mini
from crab_lightning.pretrain.towers import CELLS, LOOKS, picture_labels, random_picture, random_sound
from crab_lightning.processing import NativeProcessor

ASSET = Path(crab_lightning.__file__).parent / "assets" / "mini_omni"


def test_a_picture_is_labelled_where_it_shows_something() -> None:
    scene, first, second = random_picture(rng_for(1, "test"))
    looks, boxes = picture_labels(scene, first, second)
    assert looks.shape == (CELLS * CELLS,)
    assert 0 < int((looks > 0).sum()) < CELLS * CELLS
    assert int(looks.max()) <= len(LOOKS)
    shown = boxes[looks > 0]
    assert bool((shown[:, 0] < shown[:, 2]).all())
    assert bool((shown[:, 1] < shown[:, 3]).all())


def test_a_sound_is_labelled_only_while_it_is_heard() -> None:
    scene, labels = random_sound(rng_for(2, "test"))
    seconds = labels.reshape(scene.duration_s, -1, labels.shape[1])
    for second in range(scene.duration_s):
        heard = len(scene.heard_at(second + 0.5))
        assert seconds[second].sum(-1).tolist() == [float(heard)] * seconds.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_example_fits_the_released_geometry(kind: str) -> None:
    encoded = NativeProcessor(ASSET).encode(draw(kind, rng_for(3, kind), seed=9))
    assert encoded.labels is not None
    assert int((encoded.labels != -100).sum()) > 1


def test_a_stopped_pretraining_is_taken_up_and_gives_a_loadable_folder(tmp_path: Path) -> None:
    config = PretrainConfig(
        vision_steps=1, audio_steps=1, legs=(Leg(1, 2, 1e-3, 1e-4, 0.0), Leg(1, 1, 1e-3, 1e-4, 1.0)),
        tokens=600, workers=0, vocabulary_items=2,
    )  # fmt: skip
    folder = pretrain_mini(tmp_path / "mini", config)
    assert not (folder / "work").exists()
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert model.config.text_config.hidden_size == SIZES.hidden
    NativeProcessor(folder)
