"""Two processes with unlike media, whole weights or half of them each, learn what one process learns.

Every paradigm in each of its stages, under every strategy. A weight that is read from outside of the layer
that holds it ends these runs: it is whole only while that layer runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crab_lightning.adapters import ADAPTERS
from crab_lightning.structures import Encoded, Example
from tests.distributed.sharded_fit import (
    ASKED,
    CASES,
    LEARNT,
    PROCESSES,
    RESUMED,
    build,
    fit,
    sized,
    with_own_kind,
    write_checkpoints,
)


def params(pairs: Iterable[tuple[str, ...]]) -> list[Any]:
    """Mark those whose case is left out by default."""
    return [pytest.param(*p, marks=[pytest.mark.slow] if CASES[p[0]].slow else []) for p in pairs]


EACH = [(name, strategy) for name, case in CASES.items() for strategy in case.strategies]
EXACT = [name for name, case in CASES.items() if not case.rounded]
each = pytest.mark.parametrize(("name", "strategy"), params(EACH))
exactly = pytest.mark.parametrize(("name", "strategy"), params(p for p in EACH if p[0] in EXACT))
Alone = Callable[[str], dict[str, Any]]
Together = Callable[[str, str], Path]


@pytest.fixture(scope="module", autouse=True)
def own_kind() -> Iterator[None]:
    """The adapter kind of a contributor, which one of the cases trains."""
    with with_own_kind():
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoints(folder)
    return folder


def joined(name: str, checkpoints: Path) -> tuple[list[Any], list[Any]]:
    """Return the batches of all processes as one process reads them, and their prompts one by one."""
    processor = build(checkpoints, CASES[name]).processor
    collate = processor.collate

    def encode(made: Example) -> Encoded:
        found: Encoded = processor.encode(sized(made, CASES[name].side))
        return found

    steps = [collate([encode(e) for batch in step for e in batch]) for step in LEARNT]
    if CASES[name].apart:
        steps = [collate([encode(e) for e in batch]) for step in LEARNT for batch in step]
    return steps, [collate([encode(e)]) for rank in ASKED for batch in rank for e in batch]


@pytest.fixture(scope="module")
def alone(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """What one process learns from all samples of a step in one batch, case by case."""

    @cache
    def learn(name: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(f"alone_{name}")
        options = {"accumulate_grad_batches": PROCESSES} if CASES[name].apart else {}
        return {
            **fit(checkpoints, CASES[name], folder, *joined(name, checkpoints), **options),
            "folder": folder,
        }

    return learn


@pytest.fixture(scope="module")
def together(
    checkpoints: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Together:
    """Folder of what two processes saw of a case under a strategy; a hang ends at the time-out.

    Only the cases of the chosen tests are run.
    """
    chosen = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}

    @cache
    def run(slow: bool) -> Path:
        folder = tmp_path_factory.mktemp("together")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
        names = [name for name, case in CASES.items() if case.slow == slow and name in chosen]
        worker = ["-m", "tests.distributed.sharded_fit", str(checkpoints), str(folder), *names]
        done = subprocess.run(
            [sys.executable, *launcher, *worker],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return folder

    return lambda name, strategy: run(CASES[name].slow) / name / strategy


def same_gradients(
    found: list[dict[str, Any]], wanted: list[dict[str, Any]], *, rounded: bool = False
) -> None:
    assert len(found) == len(wanted) == len(LEARNT)
    for step, other in zip(found, wanted, strict=True):
        assert step.keys() >= other.keys()
        for name, gradient in step.items():
            # a tower that no sample of the step needs may have no gradient, or one of zeros
            expected = other.get(name, torch.zeros_like(gradient))
            if rounded:
                assert (gradient - expected).norm() <= 0.05 * expected.norm() + 1e-4
            else:
                torch.testing.assert_close(gradient, expected, atol=2e-6, rtol=1e-4)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the trained weights of a checkpoint, and what the optimizer has beside them."""
    found = torch.load(folder / "state.ckpt", weights_only=True)
    moments = found["optimizer_states"][0]["state"].items()
    return found["state_dict"] | {f"{n}.{name}": v for n, values in moments for name, v in values.items()}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.ddp
@each
def test_unlike_media_on_two_processes_give_the_gradients_of_one(
    name: str, strategy: str, together: Together, alone: Alone
) -> None:
    folder, rounded = together(name, strategy), CASES[name].rounded
    one = alone(name)
    same_gradients(torch.load(folder / "gradients_0.pt"), one["gradients"], rounded=rounded)
    seen = json.loads((folder / "seen_0.json").read_text())
    assert seen["loss"] == pytest.approx(one["loss"], abs=0.02 if rounded else 1e-5)


@pytest.mark.ddp
@exactly
def test_processes_with_unequal_prompts_finish_with_the_answers_of_one(
    name: str, strategy: str, together: Together, alone: Alone
) -> None:
    files = [together(name, strategy) / f"seen_{rank}.json" for rank in range(PROCESSES)]
    ranks = [json.loads(file.read_text())["answers"] for file in files]
    assert [len(answers) for answers in ranks] == [3, 1]
    answers = alone(name)["answers"]
    assert ranks[0] | ranks[1] == answers
    # the random model with some kinds of adapter ends each answer at once
    assert name in {"own_parameters", *ADAPTERS} or any(text for text, _ in answers.values())


@pytest.mark.ddp
@exactly
def test_checkpoint_holds_the_trained_weights_and_moments_of_one_process(
    name: str, strategy: str, together: Together, alone: Alone
) -> None:
    folders = (together(name, strategy), alone(name)["folder"])
    two, one = map(state_of, folders)
    assert two.keys() == one.keys()
    assert_close(two, one)
    sizes = [(folder / "state.ckpt").stat().st_size for folder in folders]
    assert sizes[0] <= 1.02 * sizes[1]
    if name == "native":  # the frozen base is in neither
        assert sizes[0] <= 1.15 * sum(4 * value.numel() for value in one.values())


@pytest.mark.ddp
@exactly
def test_saved_adapters_and_connectors_are_those_of_one_process(
    name: str, strategy: str, together: Together, alone: Alone
) -> None:
    two, one = (folder / "adapter" for folder in (together(name, strategy), alone(name)["folder"]))
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in two.iterdir())
    weights = [file for file in files if file.endswith(".safetensors")]
    assert weights
    for file in weights:
        assert_close(load_file(two / file), load_file(one / file))


@pytest.mark.ddp
@each
def test_sharded_weights_are_never_whole_on_a_process(name: str, strategy: str, together: Together) -> None:
    for rank in range(PROCESSES):
        seen = json.loads((together(name, strategy) / f"seen_{rank}.json").read_text())
        if strategy == "ddp":
            assert (seen["share"], seen["read_whole"] > 100) == (1, True)
        else:
            assert seen["share"] <= 0.53  # what does not divide by two is padded
            if CASES[name].paradigm in ("native", "qwen3_omni"):
                assert seen["read_whole"] == 0


@pytest.mark.ddp
@pytest.mark.parametrize("name", params((name,) for name, case in CASES.items() if case.resumed))
def test_run_resumed_under_another_strategy_goes_on_as_one_process_does(
    name: str, checkpoints: Path, tmp_path: Path, together: Together, alone: Alone
) -> None:
    before = alone(name)["folder"]
    steps, _ = joined(name, checkpoints)
    fit(checkpoints, CASES[name], tmp_path, steps, [], ckpt=before / "state.ckpt")
    one = state_of(tmp_path)
    assert any(not torch.equal(value, state_of(before)[key]) for key, value in one.items())
    for first, then in RESUMED:
        assert_close(state_of(together(name, f"{first}_{then}")), one)


def test_accumulated_micro_batches_give_the_gradients_of_one_batch(
    checkpoints: Path, tmp_path: Path, alone: Alone
) -> None:
    processor = build(checkpoints, CASES["native"]).processor
    batches = [processor.collate([processor.encode(e) for e in batch]) for step in LEARNT for batch in step]
    tokens = [int((batch.labels != -100).sum()) for batch in batches if batch.labels is not None]
    assert tokens[0] != tokens[1], "means of micro-batches would weigh these alike"
    seen = fit(checkpoints, CASES["native"], tmp_path, batches, [], accumulate_grad_batches=2)
    same_gradients(seen["gradients"], alone("native")["gradients"])


def test_fsdp_of_lightning_is_refused_by_name() -> None:
    from types import SimpleNamespace

    from lightning.pytorch.strategies import FSDPStrategy

    from crab_lightning.distributed.sharding import check_strategy

    with pytest.raises(ValueError, match=r"FSDPStrategy.*Use trainer\.strategy fsdp1"):
        check_strategy(SimpleNamespace(strategy=FSDPStrategy()))
