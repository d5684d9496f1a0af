"""Closed sets: every candidate reads back as its answer, and the true one is among them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crab_lightning.tasks import QuestionAnswering
from tests.tasks.released import datasets, question, samples_of, spec_of, task_of

CLOSED = {"a2v", "v2a", "ks", "ucf", "meld", "mer24", "cremad", "mafw", "dfew", "avqa_thu"}


@pytest.mark.parametrize("dataset", sorted(CLOSED))
def test_candidates_read_back_and_hold_the_direct_target(dataset: str) -> None:
    task, spec = task_of(dataset), spec_of(dataset)
    for sample in samples_of(dataset):
        offered = task.candidates(sample, spec)
        assert offered is not None
        assert {text: task.parse(text, sample, spec) for text in offered} == offered
        assert offered[task.target(sample, "direct")] == task.truth(sample, spec)
        assert len(set(map(repr, offered.values()))) == len(offered)


@pytest.mark.parametrize("dataset", sorted(set(datasets()) - CLOSED))
def test_open_answers_have_no_candidates(dataset: str) -> None:
    task, spec = task_of(dataset), spec_of(dataset)
    assert all(task.candidates(sample, spec) is None for sample in samples_of(dataset))


def test_a_listed_vocabulary_closes_open_questions() -> None:
    task, spec = task_of("avqa"), spec_of("avqa", classes=["Yes", "two", "frying_pan"])
    sample = samples_of("avqa")[0]
    assert task.candidates(sample, spec) == {
        "<answer>Yes</answer>": "yes",
        "<answer>two</answer>": "two",
        "<answer>frying_pan</answer>": "frying pan",
    }


def test_options_that_read_alike_are_offered_once() -> None:
    sample = question({"question": "?", "options": ("bus", "Bus.", "car"), "answer": 0}, dataset="avqa_thu")
    found = QuestionAnswering().candidates(sample, spec_of("avqa_thu"))
    assert found == {"<answer>bus</answer>": 0, "<answer>car</answer>": 2}


@pytest.mark.parametrize(
    ("own", "texts"), [("1", ["1", "2"]), ("two", ["one", "two"]), ("video 2", ["video 1", "video 2"])]
)
def test_a_choice_keeps_the_manifests_form(own: str, texts: list[str]) -> None:
    task, spec = task_of("a2v"), spec_of("a2v")
    sample = samples_of("a2v")[0]
    sample = replace(sample, fields={**sample.fields, "match_text": own})
    assert task.candidates(sample, spec) == {f"<answer>{t}</answer>.": n for n, t in enumerate(texts, 1)}


def test_a_choice_in_no_known_form_is_refused() -> None:
    sample = replace(samples_of("a2v")[0], fields={"match": 1, "match_text": "left"})
    with pytest.raises(ValueError, match="'left' names no choice"):
        task_of("a2v").candidates(sample, spec_of("a2v"))
