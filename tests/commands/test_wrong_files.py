"""Every command, with a wrong file in each of its options: one short message that names the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Not in a test: lightning's log handler keeps the stderr it finds, and a test's captured one gets closed.
import lightning.pytorch  # noqa: F401
import pytest
import yaml
from PIL import Image

from crab_lightning.commands import COMMANDS, main
from crab_lightning.configuration.files import compose

REPO = Path(__file__).resolve().parents[2]
WRONG = ("photo.jpg", "empty.bin", "folder", "missing")

# One line for each option that reads a file; BAD stands in its place. What else is given is right.
READS = """
fit --config BAD
fit --ckpt_path BAD
fit --config FEW --data.root BAD --run.folder NEW
fit --config FEW --data.root MINI --model.init_args.pretrained BAD --run.folder NEW
fit --config FEW --data.root MINI --model.init_args.load_adapter BAD --run.folder NEW
validate --ckpt_path BAD
validate --config BAD
test --ckpt_path BAD
test --config FEW --ckpt_path BAD
predict --ckpt_path BAD
plan --config BAD
score --root MINI --dataset ave --predictions BAD
score --root BAD --dataset ave --predictions ANSWERS
score --root MINI --dataset ave --predictions ANSWERS --data-config BAD
compare BAD
compare RUN --against BAD
report BAD
probe BAD
routes BAD
heads BAD
study plan BAD
study run BAD
study status BAD
study submit BAD
study report BAD
ask --task qa --question why? --video CLIP --checkpoint BAD
ask --task qa --question why? --checkpoint RUN --video BAD
ask --task qa --question why? --checkpoint RUN --video CLIP --audio BAD
ask --task ms3 --checkpoint RUN --video CLIP --image BAD
ask --task qa --question why? --checkpoint RUN --video CLIP --config BAD
evaluate --endpoint http://127.0.0.1:9/v1 --model x --data.root BAD
evaluate --endpoint http://127.0.0.1:9/v1 --model x --data.root MINI --config BAD
serve --checkpoint BAD
serve --checkpoint RUN --api_key_file BAD
serve --checkpoint RUN --config BAD
demo --checkpoint BAD
demo --checkpoint RUN --config BAD
adapter convert BAD --out NEW
adapter convert BAD --reverse --out NEW
adapter export BAD --out NEW
adapter inspect BAD
segment --checkpoint BAD --sam2 mini_sam2 --image PHOTO
segment --checkpoint RUN --sam2 BAD --image PHOTO
segment --checkpoint RUN --sam2 mini_sam2 --image BAD
segment --checkpoint RUN --sam2 mini_sam2 --video BAD
segment --checkpoint RUN --sam2 mini_sam2 --video CLIP --audio BAD
segment --checkpoint RUN --sam2 mini_sam2 --video CLIP --config BAD
showcase --video BAD --checkpoint RUN
showcase --video CLIP --checkpoint BAD
showcase --video CLIP --checkpoint RUN --audio BAD
showcase --video CLIP --checkpoint RUN --other BAD
showcase --video CLIP --checkpoint RUN --config BAD
showcase --video CLIP --checkpoint RUN --sam2 BAD
data points --root BAD
data cache --root BAD
data cache --root MINI --config BAD
data caption --audio BAD --out NEW --captioner http://127.0.0.1:9/v1 --model x
data caption --audio SOUNDS --audioset BAD --out NEW --captioner http://127.0.0.1:9/v1 --model x
data check --root BAD
data check --root MINI --config BAD
build import --dataset ave --source BAD --root NEW
build stats --root BAD
model beats-convert --checkpoint BAD --out NEW
model pocket --text BAD --out NEW
model tiny --paradigm llm_va --text BAD --out NEW
model encoders --folder BAD
model sam2-convert --checkpoint BAD --out NEW
"""

# One line for each option that writes a folder; a file stands there already.
WRITES = """
fit --config FEW --data.root MINI --run.folder BAD
score --root MINI --dataset ave --predictions ANSWERS --out BAD
probe RUN --out BAD
routes RUN --out BAD
heads RUN --out BAD
study report demo_transfer.yaml --out BAD
evaluate --endpoint http://127.0.0.1:9/v1 --model x --data.root MINI --folder BAD
adapter convert ADAPTER --out BAD
adapter export RUN --out BAD
segment --checkpoint RUN --sam2 mini_sam2 --image PHOTO --out BAD
showcase --video CLIP --checkpoint RUN --out BAD
data mini --root BAD
data cache --root MINI --cache BAD
build import --dataset ave --source folder --root BAD
build stats --root MINI --out BAD
model tiny --out BAD
model beats-convert --checkpoint PHOTO --out BAD
model pocket --out BAD
model pretrain --out BAD
model sam2-mini --out BAD
model sam2-convert --checkpoint PHOTO --out BAD
"""

# One line for each option that writes a file; a folder stands there.
WRITES_FILE = """
compare RUN --out BAD
report RUN --out BAD
data caption --audio SOUNDS --out BAD --captioner http://127.0.0.1:9/v1 --model x
data check --root MINI --json BAD

"""


def lines(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if line]


@pytest.fixture(scope="module")
def place(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of wrong files, and what the words in capitals stand for."""
    folder = tmp_path_factory.mktemp("wrong")
    Image.new("RGB", (32, 24), (200, 30, 30)).save(folder / "photo.jpg")
    (folder / "empty.bin").touch()
    (folder / "folder").mkdir()
    (folder / "answers.jsonl").write_text('{"id": "ave/test/x", "answer": "dog"}\n')
    run = folder / "RUN"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter/adapter.json").write_text("{}")
    # Of the demo's 19 sets as many as are asked: reading all of them again and again took most of the time.
    few = compose(["demo.yaml"])
    few["data"]["datasets"] = {name: few["data"]["datasets"][name] for name in ("ave", "avqa", "ms3")}
    for path in (folder / "few.yaml", run / "config.yaml"):
        path.write_text(yaml.safe_dump(few))
    (run / "metrics.json").write_text(json.dumps({"test": {"datasets": {}}}))
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def said(line: str, bad: str, place: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a line of the lists and return what it prints, once that is what it has to be."""
    clip = next((small["mini"] / "AVUIE_2").glob("ave/video/**/*.mp4"))
    sound = next((small["mini"] / "AVUIE_2").glob("ave/audio/**/*.*"))
    means = {
        "BAD": bad, "NEW": "new", "FEW": "few.yaml", "MINI": str(small["mini"]), "RUN": "RUN",
        "ADAPTER": "RUN/adapter", "PHOTO": "photo.jpg", "CLIP": str(clip), "ANSWERS": "answers.jsonl",
        "SOUNDS": str(sound.parent),
    }  # fmt: skip
    words = ["/".join(means.get(part, part) for part in word.split("/")) for word in line.split()]
    capsys.readouterr()
    try:
        status = main(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    err = capsys.readouterr().err
    assert status in (1, 2), err
    assert "Traceback" not in err
    assert "probably a fault" not in err
    assert bad in err
    assert len(err) < 700
    assert len(err.splitlines()) <= 3
    assert not (place / "new").exists()
    return err


def test_lists_name_every_command() -> None:
    # tests/builder, tests/commands/test_adapter_hub.py and test_lmms_eval.py
    elsewhere = ("build reason", "build review", "adapter push", "adapter pull", "data lmms-eval")
    listed = {line.partition(" --")[0] for line in lines(READS + WRITES + WRITES_FILE)}
    assert [
        name
        for name in COMMANDS
        if name not in elsewhere and not any(f"{line} ".startswith(f"{name} ") for line in listed)
    ] == []


# A picture is right as --image, and a name that is no file may be one of the hub.
RIGHT = {("--image BAD", "photo.jpg"), ("--sam2 BAD", "missing"), ("--sam2 BAD", "folder")}


def pairs() -> list[tuple[str, str]]:
    """Every line with every wrong file, but for what is right there."""
    return [
        (line, bad) for line in lines(READS) for bad in WRONG
        if not any(option in line and bad == name for option, name in RIGHT)
    ]  # fmt: skip


@pytest.mark.parametrize(("line", "bad"), pairs())
def test_wrong_file_is_named_in_one_line(
    line: str, bad: str, place: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    err = said(line, bad, place, small, capsys)
    option = line.split()[line.split().index("BAD") - 1]
    if bad == "missing" and option in (
        "--video",
        "--audio",
        "--image",
        "--other",
        "--audioset",
        "--api_key_file",
    ):
        assert option in err


@pytest.mark.parametrize(
    "line",
    [
        "evaluate --model x --data.root x",
        "build reason --root x --only ave --model x --dry-run",
    ],
)
@pytest.mark.parametrize("address", ["127.0.0.1:8000/v1", "http://", "ftp://a/v1", "http://a:port/v1"])
def test_wrong_address_is_named_before_anything_is_read(
    line: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*line.split(), "--endpoint", address])
    err = capsys.readouterr().err
    assert f"--endpoint: '{address}' is not a web address; give http://HOST:PORT/v1" in err


@pytest.mark.parametrize("line", lines(WRITES))
def test_file_in_the_place_of_a_folder_is_named(
    line: str, place: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (place / "photo.jpg").read_bytes()
    said(line, "photo.jpg", place, small, capsys)
    assert (place / "photo.jpg").read_bytes() == before


@pytest.mark.parametrize("line", lines(WRITES_FILE))
def test_folder_in_the_place_of_a_file_is_named(
    line: str, place: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said(line, "folder", place, small, capsys)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that nobody can write to")
@pytest.mark.parametrize(
    "line",
    [
        "fit --config FEW --data.root MINI --run.folder BAD",
        "model tiny --out BAD",
        "data mini --root BAD",
        "data check --root MINI --only ave --workers 0 --json BAD/found.json",
        "data cache --root MINI --only ave --workers 0 --cache BAD",
        "build stats --root MINI --only ave --out BAD",
        "probe RUN --out BAD",
    ],
)
def test_place_without_right_to_write_is_named(
    line: str, place: Path, small: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said(line, "/proc/run", place, small, capsys)


def test_reader_that_has_enough_ends_a_command_quietly() -> None:
    line = f'"{sys.executable}" "{REPO / "cli.py"}" data --help | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    assert done.returncode in (0, 141)
