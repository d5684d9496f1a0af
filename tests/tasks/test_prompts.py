"""The exact words and media order of every prompt: released weights were trained on these."""

from __future__ import annotations

import pytest

from crab_lightning.structures import SYSTEM_MESSAGE, Media
from tests.tasks.released import datasets, samples_of, task_of

V, I, A = Media.VIDEO, Media.IMAGE, Media.AUDIO  # noqa: E741

ACTION = "Please identify the action taking place in the video."
EMOTION = "Please judge the person's emotion at the moment."
EVENT = "Please describe the events and time range that occurred in the video."
SEGMENT = (
    "Please identify the category of the object producing the sound in the video frame. Then, provide "
    "the bounding box and three pixel points of the object that is making the sound within the frame."
)
SNAPSHOTS = {
    "a2v": (
        "These are two videos and an audio:",
        A,
        V,
        V,
        "Please listen to the audio and indicate which of the two videos matches what you hear.",
    ),
    "v2a": (
        "This is a video and two audio clips:",
        V,
        A,
        A,
        "Please view the video and indicate which of the two audio clips matches what you see.",
    ),
    "ks": ("This is a video and an audio:", V, A, ACTION),
    "ucf": ("This is a video and an audio:", V, A, ACTION),
    "meld": ("This is a video and an audio:", V, A, EMOTION),
    "mer24": ("This is a video and an audio:", V, A, EMOTION),
    "cremad": ("This is a video and an audio:", V, A, EMOTION),
    "mafw": ("This is a video and an audio:", V, A, EMOTION),
    "dfew": ("This is a video and an audio:", V, A, EMOTION),
    "avqa": (
        "This is a video and an audio:",
        V,
        A,
        "Please answer this question: How many instruments are sounding?",
    ),
    "avqa_thu": (
        "This is a video and an audio:",
        V,
        A,
        "Please answer the question based on the options: Which vehicle is it?, "
        "options:['motorboat', 'bus', 'airplane', \"it's a train\"]",
    ),
    "ave": ("This is a video and an audio:", V, A, EVENT),
    "unav": ("This is a video and an audio:", V, A, EVENT),
    "avvp": (
        "This is a video and an audio:",
        V,
        A,
        "Please determine the events that occur based on the visual and audio information in the video, "
        "as well as the start and end times of these events.",
    ),
    "ms3": ("This is an image and an audio:", I, A, SEGMENT),
    "s4": ("This is an image and an audio:", I, A, SEGMENT),
    "ref_avs": (
        "This is an image and an audio:",
        I,
        A,
        "Please analyze the video frame and audio to find the object described as "
        '<des>making the loudest sound</des>. Answer with "true" or "false" whether the object exists. If it '
        "exists, respond with a sentence identifying the object's name, its bounding box, and three pixel "
        "points; if not, state that the object is absent.",
    ),
    "arig": (
        "This is an image and an audio:",
        I,
        A,
        "Please recognize the category of object that makes the sound and then output its bounding box.",
    ),
    "avcap": ("This is a video and an audio:", V, A, "Please describe this video and audio."),
}


def test_the_configuration_lists_the_datasets_that_have_a_snapshot() -> None:
    assert sorted(datasets()) == sorted(SNAPSHOTS)


@pytest.mark.parametrize("dataset", SNAPSHOTS)
def test_the_prompt_is_the_released_one(dataset: str) -> None:
    assert task_of(dataset).prompt(samples_of(dataset)[0]) == SNAPSHOTS[dataset]


@pytest.mark.parametrize("dataset", sorted(set(SNAPSHOTS) - {"mer24", "unav", "avcap"}))
def test_training_and_testing_ask_alike(dataset: str) -> None:
    task = task_of(dataset)
    assert [task.prompt(s) for s in samples_of(dataset)] == [
        task.prompt(s) for s in samples_of(dataset, "test")
    ]


@pytest.mark.parametrize("dataset", SNAPSHOTS)
def test_each_placeholder_has_its_file(dataset: str) -> None:
    for sample in samples_of(dataset):
        prompt = task_of(dataset).prompt(sample)
        files = len(sample.videos), len(sample.images), len(sample.audios)
        assert (prompt.count(V), prompt.count(I), prompt.count(A)) == files


def test_the_system_message_is_the_released_one() -> None:
    assert SYSTEM_MESSAGE == (
        "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
        "perceiving auditory and visual inputs, as well as generating text and speech."
    )
