"""The rows of the 19 datasets: spelling, exactness, balance, and that both senses are needed."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from crab_lightning.mini import DATASETS, Item, box_of, make_item, render_masks, row_of, share_out
from crab_lightning.mini.world.vocabulary import CATEGORIES, EMOTION_CUES
from tests.tasks.released import AVE_CLASSES, LLP_CLASSES

# Section 4 of the format notes, typed out by hand: train keys, then test keys.
SPEC = {
    "a2v": (
        "video1_path video2_path audio_path correct_video audio_event video1_event video2_event label",
        "video1_path video2_path audio_path correct_video",
    ),
    "v2a": (
        "video_path audio1_path audio2_path correct_audio audio1_event audio2_event video_event label",
        "video_path audio1_path audio2_path correct_audio",
    ),
    "ks": ("video_path audio_path action label", "video_path audio_path action"),
    "ucf": ("video_path audio_path label new_label", "video_path audio_path label"),
    "meld": ("video_path audio_path Emotion label", "video_path audio_path Emotion"),
    "mer24": ("video_path audio_path discrete label", ""),
    "cremad": ("video_path audio_path emotion label", "video_path audio_path emotion"),
    "mafw": ("video_path audio_path emotion label", "video_path audio_path emotion"),
    "dfew": ("video_path audio_path emotion label", "video_path audio_path emotion"),
    "avqa": (
        "video_path audio_path video_id question_id type question answer label",
        "video_path audio_path video_id question_id type question answer",
    ),
    "avqa_thu": (
        "video_path audio_path id video_name video_id question_relation question_type multi_choice "
        "question_text answer label",
        "video_path audio_path id video_name video_id question_relation question_type multi_choice "
        "question_text answer",
    ),
    "ave": (
        "video_path audio_path event vid start_time end_time label_content",
        "video_path audio_path event vid start_time end_time",
    ),
    "unav": ("video_path audio_path vid original_label label_content", ""),
    "avvp": (
        "video_path audio_path filename vid event label_content",
        "video_path audio_path filename vid event",
    ),
    "ms3": (
        "image_path audio_path vid uid a_obj frame_idx label_content",
        "visual_path audio_path vid uid a_obj frame_idx",
    ),
    "s4": (
        "image_path audio_path vid uid a_obj label_content",
        "visual_path audio_path vid uid a_obj frame_idx",
    ),
    "arig": (
        "image_path audio_path a_obj label_content",
        "visual_path audio_path top_left bottom_right a_obj frame_idx",
    ),
    "avcap": ("video_path audio_path video_id label_content", ""),
    "ref_avs": (
        "image_path audio_path vid fid uid idx description output",
        "visual_path audio_path object split vid uid fid frame_idx",
    ),
}

MANY = 240
_made: dict[tuple[str, str], list[Item]] = {}


def items(dataset: str, split: str = "train") -> list[Item]:
    """Make the items once; they are never changed."""
    if (dataset, split) not in _made:
        _made[dataset, split] = [make_item(dataset, split, i) for i in range(MANY)]
    return _made[dataset, split]


def best_guess(dataset: str, view: Callable[[Item], object]) -> float:
    """Accuracy of the best fixed answer to each distinct view of a sample."""
    answers: dict[object, Counter[str]] = defaultdict(Counter)
    for item in items(dataset):
        answers[view(item)][item.answer] += 1
    return sum(c.most_common(1)[0][1] for c in answers.values()) / MANY


def test_all_nineteen_datasets_are_there() -> None:
    assert DATASETS.keys() == SPEC.keys()


@pytest.mark.parametrize("dataset", SPEC)
def test_rows_have_exactly_the_released_keys(dataset: str) -> None:
    for split, keys in zip(("train", "test"), SPEC[dataset], strict=True):
        if keys:
            assert set(row_of(make_item(dataset, split, 0))) == set(keys.split())
        else:
            with pytest.raises(ValueError, match="has no split 'test'"):
                make_item(dataset, split, 0)


@pytest.mark.parametrize("dataset", SPEC)
def test_an_item_is_the_same_whenever_it_is_made(dataset: str) -> None:
    assert make_item(dataset, "train", 7, seed=3) == make_item(dataset, "train", 7, seed=3)
    others = [make_item(dataset, "train", i, seed=s) for i, s in ((7, 4), (9, 3))]
    assert all(o.clip != make_item(dataset, "train", 7, seed=3).clip for o in others)


def test_unknown_dataset_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no dataset 'vgg'; it has: a2v, v2a"):
        make_item("vgg", "train", 0)


@pytest.mark.parametrize("dataset", SPEC)
def test_targets_are_short(dataset: str) -> None:
    assert max(len(item.target.split()) for item in items(dataset)) <= 75
    assert sum(len(item.target.split()) for item in items(dataset)) / MANY <= 60


@pytest.mark.parametrize("dataset", sorted(set(SPEC) - {"a2v", "v2a", "ref_avs"}))
def test_no_answer_is_more_than_a_third_of_all(dataset: str) -> None:
    assert best_guess(dataset, lambda item: 0) <= 0.35


@pytest.mark.parametrize("dataset", ["a2v", "v2a"])
def test_two_way_answers_are_even(dataset: str) -> None:
    assert best_guess(dataset, lambda item: 0) == 0.5


def test_one_training_row_in_six_asks_for_an_absent_object() -> None:
    answers = [make_item("ref_avs", "train", index).answer for index in range(60)]
    assert answers.count("false") == 10


@pytest.mark.parametrize("dataset", ["ks", "ucf", "meld", "mer24", "cremad", "mafw", "dfew"])
def test_one_sense_leaves_classes_open(dataset: str) -> None:
    """Half right from one sense; CREMA-D has no surprise, so happiness and fear lose their twin."""
    limit = 0.62 if dataset == "cremad" else 0.52
    sprite = best_guess(dataset, lambda i: re.sub(r"_\d$", "", i.videos[0].objects[0].sprite))
    sound = best_guess(dataset, lambda i: i.audios[0].objects[0].sound)
    assert sprite <= limit
    assert sound <= limit
    both = best_guess(
        dataset, lambda i: (re.sub(r"_\d$", "", i.videos[0].objects[0].sprite), i.audios[0].objects[0].sound)
    )
    assert both == 1.0


def test_every_cue_of_a_feeling_belongs_to_two() -> None:
    for part in (0, 1):
        assert set(Counter(cues[part] for cues in EMOTION_CUES.values()).values()) == {2}


@pytest.mark.parametrize("dataset", ["a2v", "v2a"])
def test_either_half_of_a_pair_question_alone_tells_nothing(dataset: str) -> None:
    def shown(item: Item) -> tuple[int | None, ...]:
        return tuple(s.objects[0].category for s in item.videos)

    def played(item: Item) -> tuple[int | None, ...]:
        return tuple(s.objects[0].category for s in item.audios)

    for item in items(dataset):
        one, two = (played, shown) if dataset == "a2v" else (shown, played)
        assert two(item)[("one", "two").index(item.answer)] == one(item)[0]
        assert two(item)[0] != two(item)[1]
    query = played if dataset == "a2v" else shown
    assert best_guess(dataset, query) < 0.62  # 8 groups of 30


@pytest.mark.parametrize("dataset", ["s4", "arig"])
def test_sight_alone_does_not_tell_which_object_sounds(dataset: str) -> None:
    ranks, odds = Counter(), 0.0
    for item in items(dataset):
        assert item.image is not None
        scene, time_s = item.image
        seen = scene.seen_at(time_s)
        sounding = [i for i in seen if i in scene.heard_at(time_s)]
        assert len(sounding) == 1
        assert len(seen) >= 2
        odds += 1 / len(seen)
        ranks[seen.index(sounding[0]) / (len(seen) - 1)] += 1
    # The share of leftmost, middle and rightmost is that of chance.
    assert max(ranks[0.0], ranks[1.0]) / MANY < odds / MANY + 0.1


@pytest.mark.parametrize("dataset", ["s4", "ms3", "arig"])
def test_boxes_and_points_fit_the_masks_of_what_sounds(dataset: str) -> None:
    for item in items(dataset)[:60]:
        assert item.image is not None
        scene, time_s = item.image
        masks = render_masks(scene, time_s)
        union = sum(masks[i].astype(int) for i in scene.heard_at(time_s)) > 0
        numbers = [list(map(int, g.split(","))) for g in re.findall(r"[\[(](\d+(?:,\d+)+)[\])]", item.target)]
        if dataset == "arig":
            assert [*numbers[0], *numbers[1]] == list(box_of(union))
            continue
        assert numbers[0] == list(box_of(union))
        assert len(numbers) == 4
        assert all(union[y, x] for x, y in numbers[1:])


def test_ms3_needs_the_second_of_the_frame() -> None:
    moving = [i for i in items("ms3") if len({tuple(i.audios[0].heard_at(t + 0.5)) for t in range(5)}) > 1]
    assert len(moving) > 0.9 * MANY


@pytest.mark.parametrize("split", ["train", "test"])
def test_referring_expressions_fit_one_object_or_none(split: str) -> None:
    for item in items("ref_avs", split)[:120]:
        assert item.image is not None
        scene, time_s = item.image
        seen, heard = scene.seen_at(time_s), scene.heard_at(time_s)
        words = item.fields["description"]
        fits = []
        for i in seen:
            obj = scene.objects[i]
            kind = obj.kind
            fit = kind.name in words or kind.colour in words or words.startswith("the object")
            fit = fit and not ("making a sound" in words and i not in heard)
            fit = fit and not ("silent" in words and i in heard)
            fit = fit and all(f" {p}" not in words or obj.place == p for p in ("left", "middle", "right"))
            fits += [i] if fit else []
        assert len(fits) == (item.answer == "true"), words
        masks = [f for f in item.files if f.kind == "mask"]
        assert all(f.objects == tuple(fits) for f in masks)
        if fits:
            found = re.search(r"\[(\d+),(\d+),(\d+),(\d+)\]", item.target)
            assert found is not None
            assert tuple(map(int, found.groups())) == box_of(render_masks(scene, time_s)[fits[0]])


def test_unseen_categories_of_ref_avs_occur_in_test_u_only() -> None:
    def named(chosen: list[Item]) -> set[str]:
        return {o.kind.name for i in chosen for o in i.audios[0].objects}

    subsets = defaultdict(list)
    for item in items("ref_avs", "test"):
        subsets[item.fields["split"]].append(item)
    assert {k: len(v) for k, v in subsets.items()} == dict.fromkeys(("test_s", "test_u", "test_n"), MANY // 3)
    new = {"banjo", "helicopter"}
    assert not new & named(items("ref_avs"))
    assert not new & named([*subsets["test_s"], *subsets["test_n"]])
    assert new <= named(subsets["test_u"])
    assert {i.answer for i in subsets["test_n"]} == {"false"}


def test_ave_span_is_where_the_event_is_seen_and_heard() -> None:
    for item in items("ave"):
        scene = item.videos[0]
        per_second = [
            {scene.objects[i].kind.ave for i in scene.seen_at(t + 0.5) if i in scene.heard_at(t + 0.5)}
            for t in range(10)
        ]
        start, end = item.fields["start_time"], item.fields["end_time"]
        assert per_second == [{item.fields["event"]} if start <= t < end else set() for t in range(10)]


def test_ave_needs_both_senses() -> None:
    def seen(item: Item) -> tuple[object, ...]:
        return tuple(sorted((o.category, o.seen) for o in item.videos[0].objects if o.seen))

    def heard(item: Item) -> tuple[object, ...]:
        return tuple(sorted((o.category, o.heard) for o in item.videos[0].objects if o.heard))

    def spans(part: tuple[object, ...], item: Item) -> bool:
        truth = ((item.fields["start_time"], item.fields["end_time"]),)
        return any(p[1] == truth for p in part)  # type: ignore[index]

    # In less than two thirds of the clips does one sense even hold the right span.
    assert sum(spans(seen(i), i) for i in items("ave")) / MANY < 0.67
    assert sum(spans(heard(i), i) for i in items("ave")) / MANY < 0.67


def test_names_are_the_datasets_own() -> None:
    assert {c.ave for c in CATEGORIES} <= set(AVE_CLASSES)
    assert {c.llp for c in CATEGORIES} <= set(LLP_CLASSES)


def test_avvp_has_events_seen_only_heard_only_and_both() -> None:
    kinds = Counter((bool(o.seen), bool(o.heard)) for item in items("avvp") for o in item.videos[0].objects)
    assert min(kinds[True, False], kinds[False, True], kinds[True, True]) > MANY / 4


def test_avvp_label_is_the_scene() -> None:
    for item in items("avvp"):
        found = re.findall(r"<(visual|audio)_event>([^,]+),\((\d+) (\d+)\)</\1_event>", item.fields["event"])
        truth = [("visual", o.kind.llp, s, e) for o in item.videos[0].objects for s, e in o.seen]
        truth += [("audio", o.kind.llp, s, e) for o in item.videos[0].objects for s, e in o.heard]
        assert sorted((m, n, int(s), int(e)) for m, n, s, e in found) == sorted(truth)


def test_options_hold_the_answer_at_every_place_equally_often() -> None:
    places = Counter()
    for item in items("avqa_thu"):
        options = item.fields["multi_choice"]
        assert len(set(options)) == 4
        places[options.index(item.fields["answer"])] += 1
    assert places == dict.fromkeys(range(4), MANY // 4)


def test_questions_alone_do_not_give_the_answers_away() -> None:
    assert best_guess("avqa_thu", lambda i: i.fields["question_text"]) < 0.4
    assert (
        best_guess("avqa", lambda i: re.sub("violin|guitar|accordion|banjo", "X", i.fields["question"]))
        < 0.62
    )
    assert best_guess("ref_avs", lambda i: i.fields["description"]) < 0.9  # 5 of 6 are there


def test_two_questions_share_a_music_clip() -> None:
    one, two, three = items("avqa")[:3]
    assert one.videos == two.videos
    assert one.files == two.files
    assert one.fields["question_id"] != two.fields["question_id"]
    assert three.clip != one.clip


def test_music_question_types_are_the_nine() -> None:
    kinds = Counter(tuple(json.loads(i.fields["type"])) for i in items("avqa"))
    assert len(kinds) == 9
    assert min(kinds.values()) >= MANY / 30


def test_names_of_clips_tell_nothing() -> None:
    words = {c.name for c in CATEGORIES} | {"joy", "sad", "anger", "true", "false", "one", "two", "yes"}
    for dataset in SPEC:
        for item in items(dataset)[:40]:
            assert re.fullmatch(r"[A-Za-z0-9]{11}", item.clip)
        if dataset != "ucf":  # released with a folder for each class
            stems = " ".join(f.path.split("/")[-1] for i in items(dataset)[:10] for f in i.files)
            assert not any(len(w) > 3 and w in stems.lower() for w in words)


def test_train_and_test_share_no_clip() -> None:
    for dataset in SPEC:
        if SPEC[dataset][1]:
            train = {i.clip for i in items(dataset)}
            assert not train & {make_item(dataset, "test", i).clip for i in range(20)}


def test_arig_asks_about_the_clips_of_s4() -> None:
    assert [i.files for i in items("arig")[:20]] == [i.files for i in items("s4")[:20]]


@pytest.mark.parametrize("clips", [33, 34, 200, 1201])
def test_clips_are_shared_out_to_the_last(clips: int) -> None:
    counts = share_out(clips)
    assert sum(a + b for name, (a, b) in counts.items() if name != "arig") == clips
    assert all(a >= 1 and (b >= 1) == bool(SPEC[n][1]) for n, (a, b) in counts.items())


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        share_out(20)
