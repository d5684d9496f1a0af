"""Two processes with unlike media, whole weights or half of them each, learn what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from crab_lightning.processing import NativeProcessor
from tests.distributed.sharded_fit import ASKED, LEARNT, PROCESSES, RESUMED, fit

STRATEGIES = ("ddp", "fsdp2", "fsdp2_offload", "fsdp1")


@pytest.fixture(scope="module")
def processor_of(tiny: Path) -> NativeProcessor:
    return NativeProcessor(tiny, "plain")


@pytest.fixture(scope="module")
def alone(
    tiny: Path, processor_of: NativeProcessor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What one process learns from all samples of a step in one batch."""
    encode, collate = processor_of.encode, processor_of.collate
    steps = [collate([encode(e) for batch in step for e in batch]) for step in LEARNT]
    prompts = [collate([encode(e)]) for rank in ASKED for batch in rank for e in batch]
    folder = tmp_path_factory.mktemp("alone")
    return {**fit(str(tiny), folder, steps, prompts), "folder": folder}


@pytest.fixture(scope="module")
def together(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two processes saw, strategy by strategy; a hang ends at the time-out."""
    folder = tmp_path_factory.mktemp("together")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={PROCESSES}",
    ]
    done = subprocess.run(
        [*launcher, "-m", "tests.distributed.sharded_fit", str(tiny), str(folder), *STRATEGIES],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def same_gradients(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted) == len(LEARNT)
    for step, other in zip(found, wanted, strict=True):
        assert step.keys() >= other.keys()
        for name, gradient in step.items():
            # a tower that no sample of the step needs may have no gradient, or one of zeros
            torch.testing.assert_close(
                gradient, other.get(name, torch.zeros_like(gradient)), atol=2e-6, rtol=1e-4
            )


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the trained weights of a checkpoint, and what the optimizer has beside them."""
    found = torch.load(folder / "state.ckpt", weights_only=True)
    moments = found["optimizer_states"][0]["state"].items()
    return found["state_dict"] | {f"{n}.{name}": v for n, values in moments for name, v in values.items()}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.ddp
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_unlike_media_on_two_processes_give_the_gradients_of_one(
    strategy: str, together: Path, alone: dict[str, Any]
) -> None:
    same_gradients(torch.load(together / strategy / "gradients_0.pt"), alone["gradients"])
    seen = json.loads((together / strategy / "seen_0.json").read_text())
    assert seen["loss"] == pytest.approx(alone["loss"], abs=1e-5)


@pytest.mark.ddp
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_with_unequal_prompts_finish_with_the_answers_of_one(
    strategy: str, together: Path, alone: dict[str, Any]
) -> None:
    ranks = [json.loads((together / strategy / f"seen_{r}.json").read_text())["answers"] for r in (0, 1)]
    assert [len(answers) for answers in ranks] == [3, 1]
    assert ranks[0] | ranks[1] == alone["answers"]
    assert any(text for text, _ in alone["answers"].values())


@pytest.mark.ddp
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_checkpoint_holds_the_trained_weights_and_moments_of_one_process(
    strategy: str, together: Path, alone: dict[str, Any]
) -> None:
    two, one = (state_of(folder) for folder in (together / strategy, alone["folder"]))
    assert two.keys() == one.keys()
    assert_close(two, one)
    file = together / strategy / "state.ckpt"
    assert file.stat().st_size <= 1.15 * sum(4 * value.numel() for value in one.values())


@pytest.mark.ddp
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sharded_weights_are_never_whole_on_a_process(strategy: str, together: Path) -> None:
    for rank in range(PROCESSES):
        seen = json.loads((together / strategy / f"seen_{rank}.json").read_text())
        if strategy == "ddp":
            assert (seen["share"], seen["read_whole"] > 100) == (1, True)
        else:
            assert seen["share"] <= 0.51
            assert seen["read_whole"] == 0


@pytest.mark.ddp
def test_run_resumed_under_another_strategy_goes_on_as_one_process_does(
    tiny: Path, tmp_path: Path, processor_of: NativeProcessor, together: Path, alone: dict[str, Any]
) -> None:
    encode, collate = processor_of.encode, processor_of.collate
    steps = [collate([encode(e) for batch in step for e in batch]) for step in LEARNT]
    fit(str(tiny), tmp_path, steps, [], ckpt=alone["folder"] / "state.ckpt")
    one, before = state_of(tmp_path), state_of(alone["folder"])
    assert any(not torch.equal(one[name], before[name]) for name in one)
    for first, then in RESUMED:
        assert_close(state_of(together / f"{first}_{then}"), one)


def test_accumulated_micro_batches_give_the_gradients_of_one_batch(
    tiny: Path, tmp_path: Path, processor_of: NativeProcessor, alone: dict[str, Any]
) -> None:
    batches = [
        processor_of.collate([processor_of.encode(e) for e in batch]) for step in LEARNT for batch in step
    ]
    tokens = [int((batch.labels != -100).sum()) for batch in batches if batch.labels is not None]
    assert tokens[0] != tokens[1], "means of micro-batches would weigh these alike"
    seen = fit(str(tiny), tmp_path, batches, [], accumulate_grad_batches=2)
    same_gradients(seen["gradients"], alone["gradients"])


def test_fsdp_of_lightning_is_refused_by_name(tiny: Path) -> None:
    from types import SimpleNamespace

    from lightning.pytorch.strategies import FSDPStrategy

    from crab_lightning.distributed.sharding import check_strategy

    with pytest.raises(ValueError, match=r"FSDPStrategy.*Use trainer\.strategy fsdp1"):
        check_strategy(SimpleNamespace(strategy=FSDPStrategy()))
