"""A whole folder is asked about; a stopped call goes on, and broken clips are listed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning import load_data
from crab_lightning.commands import main
from crab_lightning.commands.ask import one_line
from crab_lightning.inference.folder import ask_folder, find_clips
from crab_lightning.inference.loading import TrainedRun
from crab_lightning.inference.question import AskError
from tests.quiet import with_trained_adapters


@pytest.fixture(scope="module")
def run(small: dict[str, Path]) -> TrainedRun:
    from crab_lightning.adapters import AdapterConfig
    from crab_lightning.models import OmniModule

    torch.manual_seed(0)
    model = OmniModule(str(small["tiny"]), adapter=AdapterConfig(rank=4), dtype="float32", max_new_tokens=8)
    model.configure_model()
    with_trained_adapters(model, std=0.3)
    data = load_data("data/av_uie_v2.yaml", root=str(small["mini"]))
    data.processor = model.processor
    return TrainedRun(model.eval(), data)


@pytest.fixture
def folder(small: dict[str, Path], tmp_path: Path) -> Path:
    """Five clips (one with its sound beside it), two broken ones and a file that is no clip."""
    made = tmp_path / "clips"
    (made / "deep" / "er").mkdir(parents=True)
    clips = sorted((small["mini"] / "AVUIE_2").rglob("*.mp4"))
    for number, place in enumerate(["b.mp4", "a.MP4", "deep/c.mp4", "deep/er/ä \udcff.mp4", "z.mp4"]):
        shutil.copy(clips[number], made / place)
    shutil.copy(next((small["mini"] / "AVUIE_2").rglob("*.wav")), made / "z.wav")
    (made / "cut.mp4").write_bytes(clips[0].read_bytes()[:300])
    (made / "empty.mp4").touch()
    (made / "notes.txt").write_text("no clip")
    return made


def read(path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["file"] for line in lines] == sorted(line["file"] for line in lines)
    return {line["file"]: line for line in lines}


ASKED: dict[str, Any] = {"question": "What is heard?", "batch": 2}
QA = "question_answering"


def test_each_clip_gets_the_answer_that_it_gets_alone(run: TrainedRun, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = ask_folder(
        run, QA, folder, tmp_path / "o.jsonl", report=lambda _, n, of: seen.append((n, of)), **ASKED
    )
    assert (done.answered, done.before, done.gone, done.passed_over) == (5, 0, 0, 1)
    assert set(done.broken) == {"cut.mp4", "empty.mp4"}
    assert "zero bytes" in done.broken["empty.mp4"]
    assert seen == [(n, 7) for n in range(1, 8)]
    records = read(tmp_path / "o.jsonl")
    answers = set()
    for name, record in records.items():
        if name in done.broken:
            assert "answer" not in record
            continue
        sound = [folder / "z.wav"] if name == "z.mp4" else []
        alone = run.ask(QA, video=folder / name, audio=sound, question="What is heard?")
        assert (record["answer"], record["parsed"]) == (alone.text, alone.value)
        assert (record["tokens"], record["truncated"]) == (alone.tokens, alone.truncated)
        answers.add(alone.text)
    assert len(answers) > 1


def test_stopped_call_goes_on_and_the_file_is_the_same(
    run: TrainedRun, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    ask_folder(run, QA, folder, whole, **ASKED)

    def stop(_: str, done: int, __: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_folder(run, QA, folder, out, report=stop, **ASKED)
    run.model.drain()
    kept = out.read_bytes()
    assert kept.count(b"\n") == 3
    out.write_bytes(kept + b'{"file": "torn')
    asked: list[str] = []
    stream = run.model.stream

    def counted(batch: Any) -> Any:
        asked.extend(sample.id for sample in batch.samples)
        return stream(batch)

    monkeypatch.setattr(run.model, "stream", counted)
    done = ask_folder(run, QA, folder, out, **ASKED)
    assert out.read_bytes() == whole.read_bytes()
    answered = {
        n for n, r in ((r["file"], r) for r in map(json.loads, kept.splitlines())) if "error" not in r
    }
    assert done.before == len(answered) > 0
    assert not answered & set(asked)

    asked.clear()
    shutil.copy(folder / "b.mp4", folder / "cut.mp4")  # mended
    (folder / "a.MP4").write_bytes((folder / "a.MP4").read_bytes() + b"\0" * 8)  # another size
    (folder / "z.mp4").unlink()
    (folder / "z.wav").unlink()
    done = ask_folder(run, QA, folder, out, **ASKED)
    assert set(asked) == {"cut.mp4", "a.MP4"}
    assert (done.answered, done.before, done.gone, list(done.broken)) == (5, 3, 1, ["empty.mp4"])
    assert read(out)["z.mp4"]["answer"], "the answer of a clip that was removed is kept"

    with pytest.raises(ValueError, match="answers to another question"):
        ask_folder(run, QA, folder, out, question="What is seen?")
    (tmp_path / "foreign.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="line 1: this is not an answer"):
        ask_folder(run, QA, folder, tmp_path / "foreign.jsonl", **ASKED)


def test_image_task_is_asked_about_the_middle_of_videos_and_about_pictures(
    run: TrainedRun, folder: Path, small: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(next((small["mini"] / "AVUIE_2").rglob("s4/**/*.jpg")), folder / "p.png")
    shutil.copy(folder / "z.wav", folder / "p.wav")
    done = ask_folder(run, "s4", folder, tmp_path / "o.jsonl", batch=3)
    assert done.answered == 6
    assert {r["dataset"] for r in read(tmp_path / "o.jsonl").values() if "answer" in r} == {"s4"}


def test_links_are_followed_once_and_no_clip_is_passed_over_in_silence(
    run: TrainedRun, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("linked.gif", "l\n\x1b[1m.MTS", "e\u0301.mp4", "\u00e9.mp4", "a#b%20c?'d.mp4"):
        shutil.copy(folder / "b.mp4", other / name)
    (other / "back").symlink_to(other)  # a circle
    (folder / "once").symlink_to(other)
    (folder / "twice").symlink_to(other)
    (folder / "lost.mp4").symlink_to(tmp_path / "gone.mp4")
    clips, passed_over = find_clips(folder)
    names = [clip.name for clip in clips]
    linked = [name.partition("/")[2] for name in names if "ce/" in name]
    assert linked == sorted(path.name for path in other.glob("*.*"))
    assert len(names) == 7 + 5 + 1
    assert passed_over == 1
    done = ask_folder(run, "ks", folder, tmp_path / "o.jsonl", silent=True)
    assert set(done.broken) == {"cut.mp4", "empty.mp4", "lost.mp4"}
    assert "is a link that leads nowhere" in done.broken["lost.mp4"]
    assert one_line("l\n\x1b[1m \udcff\u00e9") == "l\\n\\x1b[1m \\udcff\u00e9"


@pytest.mark.parametrize(
    ("task", "texts", "said"),
    [
        ("avqa", {}, "needs `question`"),
        ("avqa", {"question": " "}, "needs `question`"),
        ("ks", {"question": "Why?"}, "takes no `question`"),
        ("a2v", {}, "compares two clips"),
    ],
)
def test_what_no_clip_can_cure_is_said_at_once(
    run: TrainedRun, folder: Path, tmp_path: Path, task: str, texts: dict[str, str], said: str
) -> None:
    with pytest.raises(AskError, match=said):
        ask_folder(run, task, folder, tmp_path / "o.jsonl", **texts)
    assert not (tmp_path / "o.jsonl").exists()


def test_folder_without_a_readable_clip_is_named(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        find_clips(tmp_path / "gone")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="contains no clip"):
        find_clips(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"none of the 1 clips .* a\.mp4: .*zero bytes"):
        ask_folder(run, "ks", tmp_path, tmp_path / "o.jsonl")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folder": None}, "^`folder` is None; it must be a text, or a path$"),
        ({"out": None}, "^`out` is None; it must be a text, or a path$"),
        ({"run": "runs/x"}, "^`run` is 'runs/x'; it must be an object of TrainedRun$"),
        ({"task": 3}, "^`task` is 3; it must be a text$"),
        ({"out": "."}, r"^\. is a folder; name a file for the answers$"),
    ],
)
def test_wrong_arguments_are_named(run: TrainedRun, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    right = {"run": run, "task": "ks", "folder": tmp_path, "out": tmp_path / "o.jsonl"}
    with pytest.raises((ValueError, OSError), match=said):
        ask_folder(**(right | given))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--folder", "x"], "--folder and --out belong together"),
        (["--folder", "x", "--out", "o", "--video", __file__], "--video: these options are for one clip"),
        (["--folder", "x", "--out", "o"], "--folder x is not a folder"),
    ],
)
def test_options_that_do_not_go_with_a_folder_are_named(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "--checkpoint", "x", "--task", "ks", *words]) == 1
    assert said in capsys.readouterr().err
