"""Commands on a full disk: one line that names a file, nothing lost, and the same command works later."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest

from crab_lightning.commands import main
from tests.runs.quick import contents, quick

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="limits the files of a forked process")


@pytest.fixture(scope="module")
def run(small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results; every test works on a copy."""
    folder = tmp_path_factory.mktemp("full") / "run"
    losses = "--trainer.callbacks=crab_lightning.evaluation.SampleLosses"
    assert quick(small, "fit", f"--run.folder={folder}", losses) == 0
    assert quick(small, "test", f"--ckpt_path={folder}") == 0
    return folder


def call(words: list[str], most_bytes: int | None = None) -> tuple[int, str]:
    """Run a command in a process of its own; return its exit status and what it says.

    Args:
        words: The command line.
        most_bytes: Size at which every file that is written meets the end of the disk.
    """
    near, far = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:  # pragma: no cover - its limits are not to be ours
        os.close(near)
        os.dup2(far, 1)
        os.dup2(far, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        logging.raiseExceptions = False  # the handlers of this test's process write into its closed output
        status = 99
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(far)
    with os.fdopen(near, errors="replace") as read:
        said = read.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


LINES = """
report RUN
compare RUN --out OUT/table.md
score --root MINI --dataset ave --predictions RUN/predictions/ave.jsonl --out OUT
data check --root MINI --only ave --json OUT/found.json --workers 0
data points --root COPY --only s4 --frame 112 --write
data mini --root OUT --clips 40 --workers 0
data cache --root MINI --only ave --cache OUT --workers 0
build stats --root MINI --only ave --out OUT
model tiny --out OUT
test --ckpt_path RUN --data.seed 1 --trainer.limit_test_batches 1
validate --ckpt_path RUN --trainer.limit_val_batches 1 --trainer.callbacks+=LOSSES
ask --checkpoint RUN --task event_localization --folder CLIPS --out OUT/answers.jsonl
showcase --checkpoint RUN --video CLIP --out OUT
probe RUN --out OUT --trainer.limit_test_batches 1
"""


@pytest.mark.parametrize("line", LINES.strip().splitlines(), ids=lambda line: " ".join(line.split()[:2]))
def test_full_disk_is_one_line_and_loses_nothing(
    line: str, run: Path, small: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(small["mini"] / "AVUIE_2/s4", tmp_path / "mini/AVUIE_2/s4")
    clip = next((small["mini"] / "AVUIE_2").glob("ave/video/**/*.mp4"))
    (tmp_path / "clips").mkdir()
    shutil.copy(clip, tmp_path / "clips")
    names = {"RUN": "run", "COPY": "mini", "OUT": "out", "CLIPS": "clips"}
    means = {word: str(tmp_path / name) for word, name in names.items()}
    means |= {"MINI": str(small["mini"]), "CLIP": str(clip)}
    line = line.replace("LOSSES", "crab_lightning.evaluation.SampleLosses")
    words = ["/".join(means.get(part, part) for part in word.split("/")) for word in line.split()]
    before = contents(tmp_path)
    for most_bytes in (700, 0):
        if most_bytes and line.startswith(("showcase", "probe")):
            continue  # they take long
        status, said = call(words, most_bytes)
        assert "Traceback" not in said
        assert "probably a fault" not in said
        if most_bytes == 0 and not line.startswith("data cache"):  # which decodes what it cannot keep
            assert status == 1, said
            assert "File too large" in said
        if status:  # a test with other settings moves the answers of the earlier one to earlier/
            assert set(before.values()) <= set(contents(tmp_path).values())
    if line.startswith("probe"):
        return  # its last test swaps the sound of clips, and the dataset here has one clip
    again, said = call(words)
    assert again == 0, said


def test_damaged_small_file_is_named_with_its_remedy(
    run: Path, small: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    answers = tmp_path / "run/predictions/ave.jsonl"
    shutil.copytree(small["mini"], tmp_path / "mini")
    mark = next((tmp_path / "mini").glob("mini*.json"))
    for path in (tmp_path / "run/metrics.json", mark):
        path.write_bytes(path.read_bytes()[:-20])
    score = f"score --root {small['mini']} --dataset ave --predictions {answers}"
    lines = {
        f"report {tmp_path / 'run'}": "Test the run again",
        f"compare {tmp_path / 'run'}": "Test the run again",
        f"{score} --out {tmp_path / 'run'}": "another --out",
        f"data mini --root {tmp_path / 'mini'} --clips 40 --workers 0": "Remove the folder",
    }
    for line, remedy in lines.items():
        capsys.readouterr()
        assert main(line.split()) == 1
        said = capsys.readouterr().err
        assert "is damaged" in said, said
        assert remedy in said, said
        assert len(said.splitlines()) == 1
