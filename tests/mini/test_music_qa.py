"""Questions about a scene made by hand, with answers worked out by hand."""

from crab_lightning.mini import Scene, SceneObject, make_item
from crab_lightning.mini.world.families.general_qa import choices
from crab_lightning.mini.world.families.music_qa import music_questions

ALL, EARLY, LATE = ((0, 12),), ((0, 6),), ((6, 12),)


def instrument(
    category: int, x: float, heard: tuple[tuple[int, int], ...], loudness: float = 1.0
) -> SceneObject:
    names = ("violin", "guitar", "accordion", "banjo")
    return SceneObject(
        names[category], names[category], category, x=x, seen=ALL, heard=heard, loudness=loudness
    )


SCENE = Scene(
    (instrument(0, 0.2, LATE), instrument(1, 0.5, EARLY, 0.25), instrument(3, 0.8, ())),
    12,
    "outdoor",
    "music",
)
ANSWERS = {q.text: q.answer for q in music_questions(SCENE)}


def test_counting() -> None:
    assert ANSWERS["How many musical instruments were heard throughout the video?"] == "two"
    assert ANSWERS["How many types of musical instruments appeared in the entire video?"] == "three"
    assert ANSWERS["How many instruments in the video did not sound from beginning to end?"] == "one"
    assert ANSWERS["Is there a banjo sound?"] == "no"
    assert ANSWERS["Is there an accordion in the entire video?"] == "no"


def test_comparing() -> None:
    assert ANSWERS["Is the violin louder than the guitar?"] == "yes"
    assert ANSWERS["Is the guitar louder than the violin?"] == "no"
    assert "Is the violin playing longer than the guitar?" not in ANSWERS  # six seconds each


def test_locating() -> None:
    assert ANSWERS["Where is the performance?"] == "outdoor"
    assert ANSWERS["What kind of instrument is the rightmost instrument?"] == "banjo"
    assert ANSWERS["Where is the loudest instrument?"] == "left"


def test_ordering() -> None:
    assert ANSWERS["What is the first instrument that comes in?"] == "acoustic_guitar"
    assert ANSWERS["Where is the first sounding instrument?"] == "middle"
    assert ANSWERS["Is the first sound coming from the left instrument?"] == "no"


def test_what_plays_out_of_sight_leaves_order_open() -> None:
    hidden = SceneObject("", "accordion", 2, heard=ALL)
    texts = {q.text for q in music_questions(Scene((*SCENE.objects, hidden), 12, "indoor", "music"))}
    assert not any("first" in t for t in texts)


def test_every_state_outlasts_the_gaps_of_the_strided_window() -> None:
    """Windows of two units start every six; a state of half the clip fills at least four of the ten."""
    for index in range(60):
        scene = make_item("avqa", "train", index).audios[0]
        unit_s = scene.duration_s / 60
        windows = [(max(t - 0.5, 0) * unit_s, (t + 1.5) * unit_s) for t in range(0, 60, 6)]
        for obj in scene.objects:
            for start, end in obj.heard:
                assert sum(start <= a and b <= end for a, b in windows) >= 4


def test_general_choices_of_a_sequence() -> None:
    whole = ((0, 6),)
    dog = SceneObject("dog", "dog", 4, x=0.2, seen=whole, heard=((0, 3),))
    cat = SceneObject("cat", "cat", 5, x=0.8, seen=whole, heard=((3, 6),))
    found = {c.text: c for c in choices(Scene((dog, cat), 6))}
    assert found["Which sound comes after the dog?"].answer == "cat"
    assert found["Which sound comes before the cat?"].answer == "dog"
    assert found["When does the cat make a sound?"].answer == "at the end"
    assert all(c.answer not in c.wrong and len(c.wrong) >= 3 for c in found.values())
    assert "dog" not in found["Which sound comes after the dog?"].wrong[:3]
