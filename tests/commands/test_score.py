"""Answer files scored without a model: ours, and every habit of the released scripts' files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.commands import main

Rows = list[dict[str, Any]]


def ave(clip: int, event: str, end: int) -> dict[str, Any]:
    return {
        "video_path": f"{clip}.mp4",
        "audio_path": f"{clip}.wav",
        "event": event,
        "vid": str(clip),
        "start_time": 0,
        "end_time": end,
    }


def says(row: dict[str, Any], event: str, end: int, **more: Any) -> dict[str, Any]:
    """Return the record that the released scripts write about a row."""
    return {
        "task_name": "ave",
        "output": f"event:{row['event']} start_time:{row['start_time']} end_time:{row['end_time']}",
        "predict": f"It barks. <event>{event}</event><range>0,{end}</range>",
        **more,
    }


AVE = [ave(0, "Cat", 10), ave(1, "Dog", 5), ave(2, "Cat", 10), ave(3, "Bus", 2)]
AVE[1]["event"] = "Bark"


def avqa(clip: int, question: int, answer: str) -> dict[str, Any]:
    return {
        "video_path": f"{clip}.mp4",
        "audio_path": f"{clip}.wav",
        "video_id": str(clip),
        "question_id": question,
        "type": '["Audio", "Counting"]',
        "question": "How many?",
        "answer": answer,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    s4 = [
        {
            "visual_path": f"AVS/v1s/c{i}/frames/0.jpg",
            "audio_path": f"AVS/v1s/c{i}/audio.wav",
            "vid": f"c{i}",
            "uid": f"c{i}",
            "a_obj": "dog",
            "frame_idx": 0,
        }
        for i in range(2)
    ]
    for name, rows in {"ave": AVE, "avqa": [avqa(0, 7, "one"), avqa(0, 8, "two")], "s4": s4}.items():
        folder = tmp_path / "AVUIE_2" / name
        folder.mkdir(parents=True)
        (folder / "test.json").write_text(json.dumps(rows))
    return tmp_path


def score(
    root: Path, dataset: str, records: Rows, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    path = root / "answers.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    words = ["score", "--root", str(root), "--dataset", dataset, "--predictions", str(path), "--json", *more]
    status = main(words)
    said = capsys.readouterr()
    if status:
        raise AssertionError(said.err)
    content: dict[str, Any] = json.loads(said.out)
    return content


def test_our_file_is_joined_by_id_and_what_is_not_there_is_missing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        {"id": "ave/test/0", "dataset": "ave", "answer": "<event>Cat, (0 10)</event>"},
        {"id": "ave/test/1", "dataset": "ave", "answer": "no idea"},
        {"id": "ave/test/2", "dataset": "ave", "answer": "<event>Cat, (0 5)</event>"},
    ]
    content = score(root, "ave", records, capsys)
    result = content["result"]
    assert content["join"]["by"] == "sample id"
    assert result["counts"] | {} == {
        "scored": 4,
        "unparsed": 1,
        "truncated": 0,
        "missing": 1,
        "loss_samples": 0,
        "weighed": 0,
    }
    # unread and missing are ten segments of background: 5 of 10 and 8 of 10 happen to be right
    assert result["strict"]["segment_accuracy"] == pytest.approx((10 + 5 + 5 + 8) / 40)
    assert result["valid_only"]["segment_accuracy"] == pytest.approx(15 / 20)


def test_records_without_id_join_rows_of_their_reference_in_any_order(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        says(AVE[3], "Bus", 2),
        says(AVE[2], "Cat", 10),
        says(AVE[0], "Cat", 4),
        says(AVE[1], "Bark", 5),
    ]
    content = score(root, "ave", records, capsys)
    assert content["join"]["by"] == "reference string (output)"
    assert not content["join"]["per_sample"]
    assert content["result"]["strict"]["segment_accuracy"] == pytest.approx(34 / 40)


def test_records_of_other_tasks_in_the_file_are_left_out(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"task_name": "ks", "output": "<answer>x</answer>", "predict": "x"}]
    records += [says(row, row["event"], row["end_time"]) for row in AVE]
    content = score(root, "ave", records, capsys)
    assert content["join"]["other_tasks"] == 1
    assert content["join"]["by"] == "order, every reference (output) checked"
    assert content["result"]["strict"]["segment_accuracy"] == 1.0


def test_a_second_run_in_the_file_replaces_the_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [says(row, "Cat", 1) for row in AVE]
    second = [says(row, row["event"], row["end_time"]) for row in AVE]
    content = score(root, "ave", first + second, capsys)
    assert content["result"]["strict"]["segment_accuracy"] == 1.0
    assert content["join"]["duplicates"] == 4
    assert content["join"]["conflicts"] == 4


def test_half_a_second_run_without_ids_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [says(row, "Cat", 1) for row in [*AVE, AVE[0]]]
    with pytest.raises(AssertionError, match="answers of several runs are mixed and contain no id"):
        score(root, "ave", records, capsys)


def test_music_avqa_joins_by_question_and_the_last_answer_counts(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        {"task_name": "avqa", "qid": 8, "output": "two", "predict": "<answer>two</answer>"},
        {"task_name": "avqa", "qid": 7, "output": "one", "predict": "<answer>two</answer>"},
        {"task_name": "avqa", "qid": 7, "output": "one", "predict": "<answer>one</answer>"},
        {"task_name": "avqa", "qid": 9, "output": "one", "predict": "<answer>one</answer>"},
    ]
    content = score(root, "avqa", records, capsys)
    assert content["result"]["strict"]["accuracy_audio_counting"] == 1.0
    assert (content["join"]["duplicates"], content["join"]["conflicts"]) == (1, 1)
    assert content["join"]["unmatched"] == 1
    with pytest.raises(AssertionError, match="1 samples of 'avqa' have several answers that differ"):
        score(root, "avqa", records, capsys, "--duplicates", "refuse")


def test_images_join_by_path_under_another_root_and_lenient_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "task_name": "s4",
        "image_path": "/elsewhere/AVUIE_2/s4/AVS/v1s/c1/frames/0.jpg",
        "predict": "[10, 20, 100, 120] [30, 40]",
    }
    strict = score(root, "s4", [record], capsys)
    lenient = score(root, "s4", [record], capsys, "--lenient")
    assert strict["join"]["by"] == "image file (image_path)"
    assert strict["result"]["counts"]["unparsed"] == 1
    assert lenient["result"]["counts"]["unparsed"] == 0
    assert lenient["options"]["lenient"] is True


def test_order_alone_needs_equal_counts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"predict": "<event>Cat, (0 10)</event>"}] * 3
    with pytest.raises(AssertionError, match="they cannot be matched by order either"):
        score(root, "ave", records, capsys)
    for key in ("id", "ID"):
        named = [{**record, key: f"z{i}"} for i, record in enumerate([*records, records[0]])]
        with pytest.raises(AssertionError, match="none of the 4 ids of 'ave' is the id of a sample: the fir"):
            score(root, "ave", named, capsys)
    content = score(root, "ave", records + records[:1], capsys)
    assert content["join"]["by"] == "order, unchecked"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "avee"], "--dataset avee (did you mean 'ave'?): data/av_uie_v2.yaml has: a2v, v2a"),
        (["--dataset", "avcap", "--lenient"], "--lenient: task captioning (Captioning) has only one way"),
        (["--protocol", "framewise"], "--protocol framewise: task event_localization"),
        (["--predictions", "gone.jsonl"], "--predictions gone.jsonl is not a file"),
        (["--root", "gone"], "--root gone is not a folder"),
    ],
)
def test_errors_name_the_option(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    records = [says(row, "Cat", 1) for row in AVE]
    with pytest.raises(AssertionError, match=re.escape(said)):
        score(root, "ave", records, capsys, *words)


@pytest.mark.parametrize("words", [["--dataset", "avee"], ["--root", "gone"]])
def test_options_are_checked_before_the_answers_are_read(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (root / "answers.jsonl").write_text("no JSON")
    given = ["--root", str(root), "--dataset", "ave", "--predictions", str(root / "answers.jsonl")]
    assert main(["score", *given, *words]) == 1
    said = capsys.readouterr().err
    assert " ".join(words) in said
    assert "JSON" not in said


def test_out_writes_what_compare_reads(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [says(row, row["event"], row["end_time"]) for row in AVE]
    score(root, "ave", records, capsys, "--out", str(root / "run"))
    metrics = json.loads((root / "run" / "metrics.json").read_text())
    assert metrics["test"]["datasets"]["ave"]["strict"]["segment_accuracy"] == 1.0
    lines = (root / "run" / "predictions" / "ave.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines] == [1.0] * 4
    score(root, "ave", records, capsys, "--out", str(root / "run"))  # its own results may be replaced


def test_results_of_a_run_are_never_replaced(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "run/metrics.json"
    path.parent.mkdir()
    path.write_text('{"test": {"datasets": {"ave": {}}}}')
    records = [says(row, "Cat", 1) for row in AVE]
    with pytest.raises(
        AssertionError, match=r"--out \S+run contains the results of a run, which are kept; give"
    ):
        score(root, "ave", records, capsys, "--out", str(root / "run"))
    assert path.read_text() == '{"test": {"datasets": {"ave": {}}}}'


def test_answers_to_rows_of_your_own_are_scored_without_the_released_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"video": f"{n}.mp4", "question": "Which?", "answer": "a dog", "id": f"q{n}"} for n in range(2)]
    (tmp_path / "mine").mkdir()
    for split in ("train", "test"):
        text = "".join(json.dumps(row | {"id": f"{split}{row['id']}"}) + "\n" for row in rows)
        (tmp_path / "mine" / f"{split}.jsonl").write_text(text)
    config = tmp_path / "own.yaml"
    config.write_text(
        "data:\n  include: data/av_uie_v2.yaml\n  datasets:\n"
        "    mine: {task: question_answering, layout: plain}\n"
    )
    answers = tmp_path / "answers.jsonl"
    given = [
        {"id": f"mine/test/testq{n}", "answer": f"<answer>{a}</answer>"}
        for n, a in enumerate(("a dog", "no"))
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in given))
    words = ["--root", str(tmp_path), "--dataset", "mine", "--predictions", str(answers)]
    ended = main(["score", *words, "--data-config", str(config), "--json"])
    said = capsys.readouterr()
    assert ended == 0, said.err
    assert json.loads(said.out)["result"]["strict"]["accuracy"] == 0.5
