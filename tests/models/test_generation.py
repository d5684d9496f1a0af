"""Answers: batched equal alone, equal the library's greedy search, end where they should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crab_lightning.models.likelihood import PromptReader
from crab_lightning.structures import Batch
from tests.models.conftest import Build
from tests.quiet import with_trained_adapters


def test_batched_answers_equal_single_ones(build: Build, prompts: list[Batch]) -> None:
    module = with_trained_adapters(build())
    together = module.generate(prompts[0])  # type: ignore[attr-defined]
    alone = [module.generate(single)[0] for single in prompts[1:]]  # type: ignore[attr-defined]
    assert together == alone
    assert len({p.text for p in together}) > 1


def test_answers_equal_the_librarys_greedy_search(build: Build, prompts: list[Batch]) -> None:
    module = build()
    inputs = {k: v for k, v in prompts[0].inputs.items() if k != "position_ids"}
    theirs = module.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    ours = module.answer(prompts[0]).tokens
    width = prompts[0].inputs["input_ids"].shape[1]
    assert ours == [row[: len(ours[i])] for i, row in enumerate(theirs[:, width:].tolist())]
    assert all(ours)


def test_generation_leaves_the_module_in_its_mode(build: Build, prompts: list[Batch]) -> None:
    module = build()
    before = {name: m.training for name, m in module.named_modules()}
    module.generate(prompts[1])
    assert {name: m.training for name, m in module.named_modules()} == before


def test_training_batch_is_not_answered(build: Build, batch: Batch) -> None:
    with pytest.raises(ValueError, match="batch with labels"):
        build().generate(batch)


class Script:
    """Writes given tokens, whatever it reads; keeps the positions it was shown."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = torch.tensor(rows)
        self.positions: list[Tensor] = []

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        self.positions.append(positions)
        return torch.nn.functional.one_hot(self.rows[:, len(self.positions) - 1], 10).float()[:, None]


def run(rows: list[list[int]], limit: int) -> tuple[list[list[int]], list[bool], Script]:
    script = Script(rows)
    ids = torch.zeros(len(rows), 3, dtype=torch.long)
    positions = torch.tensor([0, 1, 7]).expand(3, len(rows), -1)
    reader = PromptReader(script, torch.nn.Identity(), ids, torch.ones_like(ids), positions)
    answers = reader.answers(max_new_tokens=limit, end_token=9)
    return answers.tokens, answers.truncated, script


def test_answer_stops_at_the_end_token_and_others_go_on() -> None:
    tokens, truncated, script = run([[1, 9, 4, 4], [1, 2, 3, 9]], limit=10)
    assert tokens == [[1], [1, 2, 3]]
    assert truncated == [False, False]
    assert len(script.positions) == 4


def test_answer_at_the_limit_is_marked_truncated() -> None:
    tokens, truncated, _ = run([[1, 2, 3, 4], [1, 2, 9, 4]], limit=3)
    assert tokens == [[1, 2, 3], [1, 2]]
    assert truncated == [True, False]


def test_generated_tokens_stand_behind_the_largest_position() -> None:
    _, _, script = run([[1, 2, 9]], limit=5)
    assert [int(p.max()) for p in script.positions] == [7, 8, 9]


def test_right_padded_prompts_are_refused() -> None:
    ids = torch.zeros(1, 3, dtype=torch.long)
    mask = torch.tensor([[1, 1, 0]])
    with pytest.raises(ValueError, match="padded to the right"):
        PromptReader(Script([[1]]), torch.nn.Identity(), ids, mask, ids.expand(3, 1, 3))
