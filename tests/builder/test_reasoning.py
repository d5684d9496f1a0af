"""Reasoning texts by an endpoint that lies, fails and is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.builder.reasoning import (
    Costs,
    EndpointWriter,
    Settings,
    WriterError,
    estimate,
    reason,
    run,
)
from crab_lightning.builder.reasoning.journal import JournalError
from crab_lightning.builder.reasoning.prompts import read_phrases, read_prompts
from crab_lightning.builder.reasoning.questions import BOUNDS, Question
from crab_lightning.builder.reasoning.work import Work
from crab_lightning.configuration.sections import tasks_and_datasets
from crab_lightning.data import read_manifest
from crab_lightning.data.dataset import target_policy
from tests.builder.writing_endpoint import WritingEndpoint, lies_about

CHOSEN = ("ave", "avqa", "s4")


@pytest.fixture
def stub() -> Iterator[WritingEndpoint]:
    endpoint = WritingEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="session")
def many(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with 24 questions of MUSIC-AVQA about few clips, and the other datasets of ``small``."""
    root = tmp_path_factory.mktemp("many") / "root"
    shutil.copytree(small["mini"], root)
    path = root / "AVUIE_2/avqa/train.json"
    rows = json.loads(path.read_text())
    more = [
        rows[i % len(rows)]
        | {"question_id": i, "question": f"{rows[i % len(rows)]['question']} Look {i} times."}
        for i in range(24)
    ]
    path.write_text(json.dumps(more))
    return root


def copied(root: Path, tmp_path: Path, name: str) -> Path:
    return Path(shutil.copytree(root, tmp_path / name))


def rows_of(root: Path, dataset: str = "avqa", name: str = "train.json") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / "AVUIE_2" / dataset / name).read_text())
    return found


def writer(url: str, **more: Any) -> EndpointWriter:
    return EndpointWriter(url, "stub", parallel=4, timeout_s=1.0, retries=3, **more)


def test_exactly_the_lies_are_dropped_and_failures_survived(many: Path, tmp_path: Path) -> None:
    root = copied(many, tmp_path, "root")
    stub = WritingEndpoint(trouble=True)
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", CHOSEN)
    settings = Settings(tries=2)
    lies: dict[str, list[int]] = {}
    for name, spec in datasets.items():
        work = Work(root, name, spec, tasks[spec.task], settings, {})
        lies[name] = [i for i, s in enumerate(work.samples) if lies_about(work.content(s))]
    before = {name: rows_of(root, name) for name in CHOSEN}
    reports = {r.dataset: r for r in reason(root, tasks, datasets, writer(stub.url), settings)}
    stub.close()
    assert set(stub.troubles) == {"429", "500", "cut", "slow"}
    assert 2 <= len(lies["avqa"]) <= 10
    for name in CHOSEN:
        if lies[name] == list(range(len(before[name]))):
            continue
        after = rows_of(root, name)
        wanted = [row for i, row in enumerate(before[name]) if i not in lies[name]]
        key = "label" if name == "avqa" else "label_content"
        added = (key, "target_policy", "reasoning_length")
        stripped = [{k: v for k, v in row.items() if k not in added} for row in after]
        assert stripped == [{k: v for k, v in row.items() if k != key} for row in wanted]
        assert all(row[key].startswith("Something moves") for row in after)
        assert rows_of(root, name, "train.before_reasoning.json") == before[name]
    assert reports["avqa"].discarded == {"its answer is not the right one": len(lies["avqa"])}
    assert reports["avqa"].kept == {"full": 24 - len(lies["avqa"])}
    sent = stub.requests.total()
    reason(root, tasks, datasets, writer(stub.url), settings)  # nothing is left to be asked
    assert stub.requests.total() == sent


def test_killed_calls_end_in_the_same_bytes(many: Path, tmp_path: Path, stub: WritingEndpoint) -> None:
    whole, killed = copied(many, tmp_path, "whole"), copied(many, tmp_path, "killed")
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
    reason(whole, tasks, datasets, writer(stub.url), Settings(tries=2))
    for moment in (1, 2, 3, 6, 9, 11, 14, 17, 20, 23):  # verdicts that are there when the process ends
        assert _kill_at(moment, killed, stub.url) == signal.SIGKILL
    with (killed / "AVUIE_2/avqa/reasoning/verdicts.jsonl").open("a") as file:
        file.write('{"source": "train", "ro')  # a line that was cut off
    reason(killed, tasks, datasets, writer(stub.url), Settings(tries=2))
    for name in (
        "train.json",
        "train.before_reasoning.json",
        "reasoning/verdicts.jsonl",
        "reasoning/discarded.tsv",
    ):
        place = Path("AVUIE_2/avqa") / name
        assert (killed / place).read_bytes() == (whole / place).read_bytes(), name


def _kill_at(moment: int, root: Path, url: str) -> int:
    """Run ``reason`` in a process that ends by SIGKILL once so many lines are written; return its signal."""
    child = os.fork()
    if child == 0:  # an error must not leave this block, or the child would go on with the other tests
        torch.set_num_threads(1)  # the parent may have used OpenMP, whose threads do not exist in the child
        signal.alarm(60)
        append = run.append_verdict

        def counting(path: Path, header: Any, verdict: Any) -> None:
            append(path, header, verdict)
            if len(path.read_text().splitlines()) > moment:
                os.kill(os.getpid(), signal.SIGKILL)

        run.append_verdict = counting
        try:
            tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
            reason(root, tasks, datasets, writer(url), Settings(tries=2))
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def test_merged_shards_give_what_one_call_gives(many: Path, tmp_path: Path, stub: WritingEndpoint) -> None:
    whole, parts = copied(many, tmp_path, "whole"), copied(many, tmp_path, "parts")
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
    asker, settings = writer(stub.url), Settings(tries=2)
    reason(whole, tasks, datasets, asker, settings)
    reason(parts, tasks, datasets, asker, settings, shard=(1, 2))
    with pytest.raises(ValueError, match=r"12 of 24 rows have no decision yet, first avqa/\S+ \(row 1\)"):
        reason(parts, tasks, datasets, asker, settings, merge=True)
    assert rows_of(parts) == rows_of(many)
    reason(parts, tasks, datasets, asker, settings, shard=(2, 2))
    reason(parts, tasks, datasets, asker, settings, merge=True)
    assert (parts / "AVUIE_2/avqa/train.json").read_bytes() == (
        whole / "AVUIE_2/avqa/train.json"
    ).read_bytes()
    with pytest.raises(JournalError, match="was begun with tries = 2; this call has 3"):
        reason(parts, tasks, datasets, asker, Settings(tries=3))
    rows = rows_of(parts)
    (parts / "AVUIE_2/avqa/train.json").write_text(json.dumps(rows[1:]))
    with pytest.raises(FileExistsError, match="was changed after texts were written to it"):
        reason(parts, tasks, datasets, asker, settings)


def test_weak_labels_get_times(many: Path, tmp_path: Path, stub: WritingEndpoint) -> None:
    root = copied(many, tmp_path, "root")
    row = rows_of(root, "avvp")[0]
    labels = ("Dog,Cat", "Banjo", "Speech", "Blender,Dog", "Violin_fiddle", "Cello", "Clapping")
    weak = []
    for i, label in enumerate(labels):
        name = f"w{i}-{row['video_path']}"
        shutil.copy(root / "AVUIE_2/avvp/video" / row["video_path"], root / "AVUIE_2/avvp/video" / name)
        kept = {k: v for k, v in row.items() if k != "label_content"}
        weak.append(kept | {"event": label, "video_path": name})
    (root / "AVUIE_2/avvp/weak.json").write_text(json.dumps(weak))
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avvp"])
    # No clip is lied about or all: media are the same, so the stub treats them alike.
    report = reason(root, tasks, datasets, writer(stub.url), Settings(tries=1))[0]
    assert report.rows == 8
    after = rows_of(root, "avvp")
    timed = [r for r in after if r["video_path"].startswith("w")]
    if not timed:
        pytest.fail(f"the stub lied about the clip: {report.discarded}")
    assert len(timed) == 7
    assert (
        timed[1]["event"] == "<visual_event>Banjo,(0 4)</visual_event><audio_event>Banjo,(2 7)</audio_event>"
    )
    assert timed[1]["label_content"].endswith(f"decides it. {timed[1]['event']}")
    spec = datasets["avvp"]
    for sample in read_manifest(root, "avvp", spec, "train"):
        read = tasks[spec.task].parse(str(sample.target), sample, spec)
        assert read is not None
        assert read == tasks[spec.task].truth(sample, spec)
    question = Question(sample, spec, tasks[spec.task], "weak", "", frozenset({"Dog"}))
    text = "A dog is seen and it barks near the fence. <visual>Dog,(0 2)</visual><audio>Cat,(1 3)</audio>"
    assert question.rejection(text, BOUNDS["full"], ()) == "its classes are not the labelled ones: Cat added"


def test_auto_asks_only_where_the_cheap_answer_was_wrong_or_unsure(
    many: Path, tmp_path: Path, stub: WritingEndpoint
) -> None:
    root = copied(many, tmp_path, "root")
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
    spec = datasets["avqa"]
    samples = read_manifest(root, "avqa", spec, "train")
    records = []
    for i, sample in enumerate(samples):
        record = {
            "id": sample.id.replace("/train/", "/test/"),
            "answer": f"<answer>{sample.fields['answer']}</answer>",
        }
        if i % 3 == 1:
            record["answer"] = "<answer>no idea</answer>"
        if i % 3 == 2:
            record |= {"choice_right": True, "confidence": 0.5}  # type: ignore[dict-item]
        records.append(record)
    (tmp_path / "avqa.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    settings = Settings(length="auto", answers=tmp_path, discarded="direct")
    reason(root, tasks, datasets, writer(stub.url), settings)
    after = rows_of(root)
    easy = [i for i, row in enumerate(after) if row["label"] == f"<answer>{row['answer']}</answer>"]
    assert set(range(0, 24, 3)) <= set(easy)
    reasoned = [row for row in after if row["target_policy"] == "reasoning"]
    assert reasoned
    assert all(row["reasoning_length"] == "full" for row in reasoned)
    read = read_manifest(root, "avqa", spec, "train")
    assert [target_policy(s, spec, 0) for s in read] == [row["target_policy"] for row in after]
    assert target_policy(read[0], replace(spec, target=1.0), 0) == "direct"


def test_what_a_text_must_be(many: Path) -> None:
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
    spec = datasets["avqa"]
    sample = read_manifest(many, "avqa", spec, "train")[0]
    task = tasks[spec.task]
    question = Question(sample, spec, task, "train", task.direct(sample), task.truth(sample, spec))
    good = "The violin is heard from the first to the last second, the guitar is not."
    bounds, phrases = BOUNDS["full"], read_phrases()
    for text, kind in (
        (f"{good} {question.answer}", None),
        (f"{good} As  the Label says. {question.answer}", "it shows that the answer was told"),
        (f"{good} It is labelled thelabel. {question.answer}", None),
        (f"{good} {question.answer} And more.", "it does not end with the answer"),
        (f"{question.answer}", "its reasoning is too short"),
        (f"{good * 20} {question.answer}", "its reasoning is too long"),
        ("", "its answer cannot be read"),
        (f"{good} <answer>zither</answer>", "its answer is not the right one"),
    ):
        found = question.rejection(text, bounds, phrases)
        assert (found.split(":")[0] if found else None) == kind, text


def test_every_shipped_example_is_a_text_that_would_be_kept() -> None:
    _, datasets = tasks_and_datasets("data/av_uie_v2.yaml", None)
    families = {spec.task for spec in datasets.values()} - {"captioning"}
    for family in sorted(families):
        prompts = read_prompts(family, "none")
        assert prompts is not None, family
        for one in prompts.examples:
            for length in ("short", "full"):
                text, bounds = one[length], BOUNDS[length]
                words = len(text.split()) - len(one["answer"].split())
                assert bounds.least <= words <= bounds.most, text
                assert text.rstrip(" .").endswith(one["answer"].rstrip(" .")[-12:]), text
                assert not [phrase for phrase in read_phrases() if phrase in text.lower()]
    assert read_prompts("captioning", "avcap") is None


def test_dry_run_counts_and_writes_nothing(many: Path, tmp_path: Path, capsys: Any) -> None:
    from crab_lightning.commands import main

    root = copied(many, tmp_path, "root")
    before = sorted(root.rglob("*"))
    words = ["build", "reason", "--root", str(root), "--only", "avqa,ave", "--model", "m", "--dry-run"]
    assert main([*words, "--price-in", "2", "--price-out", "8"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("avqa"))
    _, requests, most, read, written, seconds, money = line.replace(",", "").split()
    assert (requests, most, seconds) == ("24", "72", "12")
    assert float(money) == pytest.approx((2 * int(read) + 8 * int(written)) / 1e6, abs=0.006)
    assert int(read) > 24 * 10 * 258  # ten frames each
    assert sorted(root.rglob("*")) == before
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avcap"])
    with pytest.raises(ValueError, match="there are no examples for the task 'captioning'"):
        estimate(root, tasks, datasets, {}, Settings(), Costs(), parallel=1)


def test_an_unreachable_endpoint_says_how_to_go_on(many: Path, tmp_path: Path) -> None:
    root = copied(many, tmp_path, "root")
    tasks, datasets = tasks_and_datasets("data/av_uie_v2.yaml", ["avqa"])
    asker = EndpointWriter("http://127.0.0.1:9/v1", "m", retries=0)
    with pytest.raises(WriterError, match=r"cannot be reached.*\n0 of 24 open rows of avqa have a decision"):
        reason(root, tasks, datasets, asker, Settings())
