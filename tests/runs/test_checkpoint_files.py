from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.runs.checkpoint_files import CheckpointError, CheckpointFiles


def of_step(step: int) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"weight": torch.full((5000,), float(step))}, "loops": {}}


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """A run's last checkpoint, of step 2, with the one of step 1 beside it."""
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        CheckpointFiles().save_checkpoint(of_step(step), path)
    return path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((4,), 2.0).numpy().tobytes()) + 1000] ^= 4
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace(path: Path) -> None:
    torch.save({"something": "else"}, path)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


def poison(path: Path) -> None:
    torch.save({**of_step(9), "harm": Harm()}, path)


@pytest.mark.parametrize("damage", [cut, flip, empty, replace])
def test_damaged_last_checkpoint_gives_way_to_the_one_before(
    last: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(last.parent)
    damage(last)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged .*; continuing from .*previous\.ckpt\."):
        found = CheckpointFiles().load_checkpoint(last)
    assert found["state_dict"]["weight"][0] == 1


def test_checkpoint_that_asks_for_code_is_refused_as_such(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(last.parent)
    poison(last)
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt is refused: .* would load \w+\.system, which is neither"
    ):
        CheckpointFiles().load_checkpoint(last)
    assert not Path("harm").exists()


def test_torch_itself_would_take_a_flipped_bit_for_a_weight(last: Path) -> None:
    flip(last)
    assert not torch.equal(torch.load(last)["state_dict"]["weight"], of_step(2)["state_dict"]["weight"])


def test_two_damaged_checkpoints_are_an_error_that_says_what_is_left(last: Path) -> None:
    cut(last)
    flip_previous = last.with_name("previous.ckpt")
    cut(flip_previous)
    with pytest.raises(CheckpointError, match=r"so is .*previous\.ckpt .*\(model\.load_adapter\)$"):
        CheckpointFiles().load_checkpoint(last)


def test_other_checkpoints_have_nothing_to_give_way_to(last: Path) -> None:
    best = last.with_name("best.ckpt")
    CheckpointFiles().save_checkpoint(of_step(1), best)
    cut(best)
    with pytest.raises(CheckpointError, match=r"best\.ckpt is damaged"):
        CheckpointFiles().load_checkpoint(best)


def test_killed_save_leaves_the_old_one_and_the_next_removes_what_is_left(last: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover - killed

        def killed(value: Any, path: Path) -> None:
            Path(path).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = killed  # type: ignore[assignment]
        CheckpointFiles().save_checkpoint(of_step(3), last)
    os.waitpid(child, 0)
    assert len(list(last.parent.glob(".last.ckpt.*"))) == 1
    assert CheckpointFiles().load_checkpoint(last)["global_step"] == 2
    CheckpointFiles().save_checkpoint(of_step(3), last)
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert CheckpointFiles().load_checkpoint(last.with_name("previous.ckpt"))["global_step"] == 2


def test_full_disk_keeps_the_old_one_and_says_so(last: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover - in a child, since the limit cannot be taken back
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        files = CheckpointFiles()
        files.save_checkpoint(of_step(3), last)
        told = files.error or ""
        os._exit(
            0 if "could not be written (the disk is" in told and "last.ckpt is not damaged" in told else 1
        )
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert CheckpointFiles().load_checkpoint(last)["global_step"] == 2
