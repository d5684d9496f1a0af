import re

import numpy as np
import pytest

from crab_lightning.mini import Scene, SceneObject, box_of, make_item, render_masks
from crab_lightning.mini.world.describe import (
    describe,
    describe_audio,
    describe_moment,
    describe_pair,
    describe_picture,
    describe_video,
)
from crab_lightning.mini.world.scenes import place_objects, random_scene


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def answers(pairs: list[tuple[str, str]], pattern: str) -> set[str]:
    """Answers of the questions that match; asking often enough meets every wording."""
    return {a for q, a in pairs if re.search(pattern, q)}


def often(function: object, *args: object) -> list[tuple[str, str]]:
    return [pair for seed in range(30) for pair in function(*args, np.random.default_rng(seed))]  # type: ignore[operator]


DOG = SceneObject("dog", "dog", 4, x=0.2, y=0.5, size=0.3, seen=((0, 4),), heard=((2, 4),))
CAT = SceneObject("cat", "cat", 5, x=0.8, y=0.5, size=0.3, seen=((1, 3),))
BANJO = SceneObject("", "banjo", 3, heard=((0, 1),))
SCENE = Scene((DOG, CAT, BANJO), 4)


def test_picture_names_places_colours_and_boxes() -> None:
    pairs = often(describe_picture, SCENE, 1.5)
    assert answers(pairs, "What is in the picture") == {"I see a dog on the left and a cat on the right."}
    assert answers(pairs, "^Where is the dog") == {"on the left"}
    assert answers(pairs, "colour is the cat") == {"pink"}
    box = ",".join(map(str, box_of(render_masks(SCENE, 1.5)[0])))
    assert answers(pairs, "box of the dog") == {f"[{box}]"}
    assert answers(pairs, "How many things are seen") == {"two"}
    assert answers(pairs, "What is in the middle") == {"nothing"}
    assert answers(pairs, "Is there a dog in") == {"yes"}
    assert "yes" not in answers(pairs, "Is there a (banjo|violin) in")


def test_picture_and_video_name_the_background() -> None:
    """Emotion sets are told apart by it: they use other words for the same feeling."""
    asked = "(?i)colour.* (background|behind)"
    assert answers(often(describe_picture, SCENE, 1.5), asked) == {SCENE.background}
    assert answers(often(describe_video, SCENE), asked) == {SCENE.background}


def test_video_tells_every_second() -> None:
    pairs = often(describe_video, SCENE)
    assert answers(pairs, "seen in each second") == {"0 dog, 1 dog cat, 2 dog cat, 3 dog"}
    assert answers(pairs, "^When is the cat seen") == {"from 1 to 3"}
    assert answers(pairs, "Until which second is the cat") == {"3"}


def test_audio_tells_every_second() -> None:
    pairs = often(describe_audio, SCENE)
    assert answers(pairs, "heard in each second") == {"0 banjo, 1 nothing, 2 dog, 3 dog"}
    assert answers(pairs, "^What is heard\\?") == {"a banjo and a dog"}
    assert answers(pairs, "Which sound starts first") == {"a banjo"}
    assert answers(pairs, "Is a cat heard") <= {"no"}


def test_a_moment_joins_sight_and_sound() -> None:
    pairs = often(describe_moment, SCENE, 2.5)
    assert answers(pairs, "in the picture sounds") == {"a dog"}
    assert answers(pairs, "in the picture is silent") == {"a cat"}
    assert answers(pairs, "Where does the sound come from") == {"on the left"}
    early = often(describe_moment, SCENE, 0.5)
    assert answers(early, "heard but not in the picture") == {"a banjo"}
    assert answers(early, "in the picture sounds") == {"nothing"}


def test_whole_clip_joins_times() -> None:
    pairs = often(describe, SCENE)
    assert answers(pairs, "When is the dog seen and heard") == {"from 2 to 4"}
    assert answers(pairs, "When is the cat seen and heard") == {"never"}
    assert answers(pairs, "heard but never seen") == {"a banjo"}


def test_faces_and_voices_are_described_without_naming_the_feeling() -> None:
    item = make_item("meld", "train", 0)
    pairs = often(describe, item.videos[0])
    assert answers(pairs, "How does the face look") | answers(pairs, "How does the voice sound")
    text = " ".join(a for _, a in pairs)
    assert not re.search("joy|sad|anger|fear|surprise|neutral|happ", text)


def test_pairs_tell_first_from_second() -> None:
    item = make_item("a2v", "train", 0)
    pairs = often(lambda a, b, rng: describe_pair(a, b, rng, "seen", item.audios[0]), *item.videos)
    assert answers(pairs, "belong to first or second") == {"first" if item.answer == "one" else "second"}
    names = [s.objects[0].kind.name for s in item.videos]
    assert answers(pairs, f"Is the {names[1]} seen first or second") == {"second"}


def test_seconds_are_not_asked_of_cut_sound() -> None:
    scene = make_item("avqa", "train", 0).videos[0]
    assert not answers(often(describe, scene), "second")


def test_no_instruction_is_one_of_the_tasks(rng: np.random.Generator) -> None:
    asked = {q for i in range(100) for q, _ in describe(random_scene(rng), rng)}
    assert not any(q.startswith(("Please", "This is")) for q in asked)
    assert not any("<" in a for i in range(100) for _, a in describe(random_scene(rng), rng))


def test_vocabulary_is_closed(rng: np.random.Generator) -> None:
    def words(count: int) -> set[str]:
        found = set()
        for _ in range(count):
            scene = random_scene(rng)
            for pair in (
                describe(scene, rng) + describe_picture(scene, 1.5, rng) + describe_moment(scene, 1.5, rng)
            ):
                found |= set(re.findall("[a-z]+", " ".join(pair).lower()))
        return found

    first = words(60)
    assert len(first) < 200
    assert words(10) <= first


def test_random_scenes_repeat_with_their_seed() -> None:
    one, two = (random_scene(np.random.default_rng(5)) for _ in range(2))
    assert one == two


def test_twins_get_no_box_of_their_own(rng: np.random.Generator) -> None:
    scene = Scene(place_objects(rng, [0, 0], duration_s=4), 4)
    pairs = often(describe_picture, scene, 0.5)
    assert not answers(pairs, "Where is the violin")
    assert answers(pairs, "How many things are seen") == {"two"}
