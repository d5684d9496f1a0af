"""Whole answers to whole scores, against the values of official code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.structures import DatasetSpec, Sample
from crab_lightning.tasks import Captioning, EventLocalization, event_parsing
from tests.tasks.released import AVE_CLASSES, LLP_CLASSES, question, samples_of, spec_of, task_of


def cases(oracles: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((oracles / f"{name}.json").read_text())["cases"]
    assert found
    return found


def compute(dataset: str, pairs: list[tuple[str, Sample]], **change: Any) -> dict[str, float]:
    task, spec = task_of(dataset), spec_of(dataset, **change)
    metrics = task.metrics(spec)
    for text, sample in pairs:
        task.update(metrics, task.parse(text, sample, spec), sample, spec)
    return {name: float(value) for name, value in metrics.compute().items()}


def same(found: float, expected: float | None, scale: float = 1.0) -> bool:
    return math.isnan(found) if expected is None else scale * found == pytest.approx(expected, abs=1e-8)


def key(group: str) -> str:
    return "accuracy_" + group.lower().replace("/", "_").replace("-", "_").replace(" ", "_")


def test_music_avqa_answers_score_as_in_the_official_code(oracles: Path) -> None:
    for case in cases(oracles, "music_avqa_accuracy"):
        pairs = []
        for item in case["inputs"]["items"]:
            modality, kind = json.loads(item["type"])
            fields = {"question": "?", "answer": item["answer"], "modality": modality, "question_type": kind}
            pairs.append((f"So the answer is <answer> {item['pred']} </answer>.", question(fields)))
        found, expected = compute("avqa", pairs), case["expected"]
        assert same(found["accuracy"], expected["overall"], 100), case["name"]
        for group, value in (expected["per_type"] | expected["per_modality"]).items():
            assert same(found[key(group)], value, 100), (case["name"], group)


def test_avqa_options_score_as_in_the_official_code(oracles: Path) -> None:
    options = ("motorboat", "bus", "airplane", "train")
    for case in cases(oracles, "avqa_accuracy"):
        pairs = []
        for item in case["inputs"]["items"]:
            fields = {"question": "?", "answer": item["answer"], "options": options}
            text = (
                f"<answer>{options[item['pred']]}</answer>" if item["pred"] in range(4) else "none of these"
            )
            pairs.append((text, question(fields | {"question_type": item["question_type"]})))
        found, expected = compute("avqa_thu", pairs), case["expected"]
        assert same(found["accuracy"], expected["overall"]), case["name"]
        for group, value in expected["per_type"].items():
            assert same(found[key(group)], value), (case["name"], group)


def test_a_question_of_an_unlisted_type_counts_overall_only() -> None:
    fields = {"question": "?", "answer": 0, "options": ("a1", "b1"), "question_type": "Whether"}
    found = compute("avqa_thu", [("a1", question(fields))])
    assert found.pop("accuracy") == 1
    assert all(math.isnan(value) for value in found.values())


def test_plain_accuracy_needs_no_question_types() -> None:
    pair = ("<answer>no</answer>", question({"question": "?", "answer": "No"}))
    assert compute("avqa", [pair], metrics=["accuracy"]) == {"accuracy": 1.0}


def test_a_vocabulary_makes_other_answers_unreadable() -> None:
    task, sample = task_of("avqa"), samples_of("avqa")[0]
    spec = spec_of("avqa", classes=["yes", "no", "bass_drum"])
    assert task.parse("<answer>Bass drum</answer>", sample, spec) == "bass drum"
    assert task.parse("<answer>drums</answer>", sample, spec) is None


def emotions(oracle: dict[str, Any], dataset: str, classes: list[str]) -> list[tuple[str, Sample]]:
    pairs = []
    for truth, pred in zip(oracle["gt"], oracle["pred"], strict=True):
        name = classes[pred] if pred >= 0 else "puzzled"
        pairs.append(
            (f"The voice is low. <answer>{name}</answer>.", question({"class_name": classes[truth]}))
        )
    return pairs


@pytest.mark.parametrize("released", ["dfew", "mafw", "mer2024"])
def test_uar_and_war_of_answers_are_the_official_ones(oracles: Path, released: str) -> None:
    dataset = {"mer2024": "mer24"}.get(released, released)
    classes = json.loads((oracles / "uar_war.json").read_text())["label_names"][released]
    mine = [case for case in cases(oracles, "uar_war") if case["inputs"]["dataset"] == released]
    assert mine
    for case in mine:
        found = compute(dataset, emotions(case["inputs"], dataset, classes), classes=classes)
        assert same(found["uar"], case["expected"]["UAR"], 100), case["name"]
        assert same(found["war"], case["expected"]["WAR"], 100), case["name"]


def test_meld_answers_score_as_in_the_official_code(oracles: Path) -> None:
    classes = json.loads((oracles / "meld_acc_waf.json").read_text())["label_names"]
    for case in cases(oracles, "meld_acc_waf"):
        found = compute("meld", emotions(case["inputs"], "meld", classes), classes=classes)
        assert same(found["accuracy"], case["expected"]["ACC"], 100), case["name"]
        assert same(found["weighted_f1"], case["expected"]["WAF"], 100), case["name"]


def spans(segments: list[int], background: int = 28) -> list[tuple[int, int, int]]:
    found, start = [], 0
    for i in range(1, len(segments) + 1):
        if i == len(segments) or segments[i] != segments[start]:
            if segments[start] != background:
                found.append((segments[start], start, i))
            start = i
    return found


def test_ave_answers_score_as_in_the_official_code(oracles: Path) -> None:
    checked = 0
    for case in cases(oracles, "ave_accuracy"):
        if "pred" not in case["inputs"]:
            continue
        pairs = []
        for truth, pred in zip(case["inputs"]["gt"], case["inputs"]["pred"], strict=True):
            true = spans(truth)
            if len(true) > 1:
                break
            label, start, end = true[0] if true else (0, 0, 0)
            sample = question({"event": AVE_CLASSES[label], "start_s": start, "end_s": end})
            text = " ".join(
                f"<event>{AVE_CLASSES[c]}</event> <range>{s},{e}</range>" for c, s, e in spans(pred)
            )
            pairs.append((text, sample))
        else:
            checked += 1
            found = compute("ave", pairs)["segment_accuracy"]
            assert same(found, case["expected"]["accuracy"]), case["name"]
    assert checked >= 5


def parsing_pairs(case: dict[str, Any]) -> list[tuple[str, Sample]]:
    def tags(video: dict[str, Any], side: str) -> str:
        return "".join(
            f"<{modality}>{LLP_CLASSES[c]},({s} {e})</{modality}>"
            for modality, events in (("audio", video[f"{side}_a"]), ("visual", video[f"{side}_v"]))
            for c, s, e in events
        )

    return [(tags(v, "pred"), question({"annotation": tags(v, "gt")})) for v in case["inputs"]["videos"]]


def test_parsing_answers_score_as_in_the_official_code(oracles: Path) -> None:
    for case in cases(oracles, "avvp_f_scores"):
        found = compute("avvp", parsing_pairs(case))
        for level, scores in case["expected"]["dataset_percent"].items():
            for name, value in scores.items():
                assert same(found[f"{level}_{name.lower()}"], value, 100), (case["name"], level, name)


def test_score_of_a_parsed_clip_is_its_metric_alone_without_building_one(
    oracles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [pair for case in cases(oracles, "avvp_f_scores") for pair in parsing_pairs(case)]
    expected = [compute("avvp", [pair])["segment_mean5"] for pair in pairs]
    assert len(set(expected)) > 3
    monkeypatch.setattr(event_parsing, "EventParsingF", None)  # too dear to build for every answer
    task, spec = task_of("avvp"), spec_of("avvp")
    assert [task.score(task.parse(text, s, spec), s, spec) for text, s in pairs] == expected


def test_boxes_in_answers_score_as_in_the_localization_code(oracles: Path) -> None:
    for case in cases(oracles, "arig_iou_auc"):
        pairs = []
        for pred, truth in zip(case["inputs"]["pred"], case["inputs"]["gt"], strict=True):
            x1, y1, x2, y2 = pred
            text = f"It is the dog. <obj>({x1},{y1})({x2},{y2})</obj>"
            pairs.append((text, question({"box_xyxy_px": tuple(truth)}, dataset="arig")))
        found, expected = compute("arig", pairs), case["expected"].get("mask_ciou")
        if expected is None:
            continue
        assert same(found["iou"], expected["mean_iou"]), case["name"]
        assert same(found["auc"], expected["auc"]), case["name"]
        assert same(found["success_at_50"], expected["success_at_50"]), case["name"]


def test_a_frame_without_sounding_object_is_left_out() -> None:
    silent = question({"box_xyxy_px": (1000, 0, 0, 0)}, dataset="arig")
    there = question({"box_xyxy_px": (0, 0, 100, 100)}, dataset="arig")
    assert compute("arig", [("[5,5,9,9]", silent), ("[0,0,100,100]", there)])["iou"] == 1
    assert task_of("arig").score((5, 5, 9, 9), silent, spec_of("arig")) is None


@pytest.mark.parametrize("box", [[110, 120, 10, 20], [0, 0, 5, 1.5], None, "[0,0,5,5]", [1, 2, 3]])
def test_a_box_that_is_no_box_is_named(box: Any) -> None:
    with pytest.raises(ValueError, match=r"the box is .*; it must be \[x1, y1, x2, y2\] in whole pixels"):
        task_of("arig").truth(question({"box_xyxy_px": box}, dataset="arig"), spec_of("arig"))


def test_matching_answers_score_by_accuracy_with_invalid_ones_wrong() -> None:
    first, second = samples_of("a2v", "test")
    assert compute("a2v", [("video one", first), ("neither", second)]) == {"accuracy": 0.5}


def test_events_of_one_answer_are_found_in_the_dense_set() -> None:
    sample = samples_of("unav")[0]
    half = "<event>people eating, (0 3)</event><event>dog barking, (2 5)</event><event>a siren, (0 9)</event>"
    found = compute("unav", [(half, sample)])
    assert found["map_average"] == pytest.approx((0.5 + 1) / 2)  # one of two eatings, the only bark


def test_true_times_are_scored_where_a_row_has_them() -> None:
    """Tenths 2 to 5 of a clip of 38 s overlap its seconds 9.5 to 19 by 9.5 of 11.4 s; rounded, by 1 of 1."""
    fields = {"annotation": "<event>dog barking, (2 5)</event>"}
    events = [{"label": "dog barking", "start_s": 9.5, "end_s": 19.0}]
    answer = "<event>dog barking, (2 5)</event>"
    rounded = compute("unav", [(answer, question(fields, dataset="unav"))], classes=["dog barking"])
    timed = question({**fields, "events_s": events, "duration_s": 38}, dataset="unav")
    true = compute("unav", [(answer, timed)], classes=["dog barking"])
    assert (rounded["map_90"], true["map_90"], true["map_80"]) == (1, 0, 1)
    strange = question(
        {**fields, "events_s": [{**events[0], "label": "owl"}], "duration_s": 38}, dataset="unav"
    )
    with pytest.raises(ValueError, match="events_s has 'owl'"):
        compute("unav", [(answer, strange)], classes=["dog barking"])


def test_an_unknown_event_name_is_wrong_even_over_background() -> None:
    sample = question({"event": "Bus", "start_s": 0, "end_s": 5})
    answer = "<event>Tractor</event><range>5,10</range>"
    assert compute("ave", [(answer, sample)])["segment_accuracy"] == 0


def test_results_say_what_their_metric_takes_for_granted() -> None:
    unav = DatasetSpec(task="event_localization", layout="unav", metrics=["map"], classes=["Dog"])
    ave = DatasetSpec(task="event_localization", layout="ave", classes=["Dog"])
    assert "the confidence 1.0 for every event" in str(EventLocalization().note(unav))
    assert EventLocalization().note(ave) is None
    avcap = DatasetSpec(task="captioning", layout="avcap")
    assert "tokenizer python: scores differ slightly" in Captioning("python").note(avcap)
    assert "tokenizer ptb" in Captioning("ptb").note(avcap)
    assert Captioning("auto").note(avcap) in {Captioning(name).note(avcap) for name in ("ptb", "python")}
