"""Continuous batching: each answer is what its prompt alone would get, whatever is answered beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from crab_lightning.adapters import AdapterConfig
from crab_lightning.models.engine import Answer, AnswerEngine, Sampling, padded
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch
from tests.models.conftest import Build
from tests.processing.examples import image_example, video_example
from tests.quiet import with_trained_adapters


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def questions(processor: NativeProcessor, count: int = 7) -> list[Batch]:
    """Prompts of unequal length, with a video, a picture, and no media, each a batch of its own."""
    made = []
    for number in range(count):
        if number % 3:
            example = video_example(
                f"v{number}", target=None, count=2 + 2 * (number % 2), seconds=1.0, seed=number
            )
        else:
            example = image_example(f"i{number}", target=None, seed=number)
        made.append(processor.collate([processor.encode(example)]))
    return made


def lively(build: Build, **options: Any) -> Any:
    """A module whose adapters do something, and whose answers differ in length."""
    module = build(**options)
    torch.manual_seed(1)
    return with_trained_adapters(module, std=0.3).eval()


def finish(engine: AnswerEngine, most: int = 500) -> None:
    for _ in range(most):
        if not engine.busy:
            return
        engine.step()
    raise AssertionError("the engine did not finish")


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("kind", ["ilora", "multi_lora", "moka"])
def test_answer_is_that_of_the_prompt_alone(
    build: Build, processor: NativeProcessor, slots: int, kind: str
) -> None:
    batches = questions(processor)
    tasks = sorted({sample.task for batch in batches for sample in batch.samples})
    options = {"tasks": tasks} if kind == "multi_lora" else {}
    module = lively(build, adapter=AdapterConfig(kind=kind, rank=4, **options), max_new_tokens=9)
    alone = [module.answer(batch).tokens[0] for batch in map(announced(module), batches)]
    engine = module.engine(slots)
    answers: list[Answer] = []
    for batch in batches:  # later prompts arrive while earlier ones are being answered
        answers += module.queue(engine, batch)
        engine.step()
    finish(engine)
    assert [answer.tokens for answer in answers] == alone
    assert {id(answer) for answer in engine.take()} == {id(answer) for answer in answers}


def announced(module: Any) -> Any:
    def tell(batch: Batch) -> Batch:
        module.announce(batch)
        return batch

    return tell


class Clock(nn.Module):
    """Answers with a count-down from the prompt's last token to the end token 0."""

    def __call__(self, ids: torch.Tensor, positions: Any, mask: Any, cache: Any) -> torch.Tensor:
        keys = torch.zeros(len(ids), 1, ids.shape[1], 2)
        cache.update(keys, keys, 0)
        self.rows = len(ids)
        return nn.functional.one_hot((ids - 1).clamp(min=0), 20).float()


def count_down(*starts: int, slots: int = 2, limit: int = 50) -> tuple[AnswerEngine, list[Answer], Clock]:
    clock = Clock()
    engine = AnswerEngine(clock, nn.Identity(), end_token=0, announce=lambda _: None, slots=slots)
    ids = torch.tensor(starts)[:, None]
    answers = [Answer(None, limit) for _ in starts]  # type: ignore[arg-type]
    engine.add(answers, ids, torch.ones_like(ids), ids.expand(3, -1, -1), padded(clock))
    return engine, answers, clock


def test_short_answer_makes_room_for_the_next_prompt() -> None:
    engine, answers, _ = count_down(10, 3, 3, 3, 3)
    steps = 0
    while engine.busy:
        engine.step()
        steps += 1
    assert [len(answer.tokens) for answer in answers] == [9, 2, 2, 2, 2]
    assert steps == 9, "four short answers fit beside one long one"


def test_limit_marks_an_answer_truncated() -> None:
    engine, answers, _ = count_down(10, 3, limit=4)
    finish(engine)
    assert [(answer.tokens, answer.truncated) for answer in answers] == [
        ([9, 8, 7, 6], True),
        ([2, 1], False),
    ]


def test_cancelled_answer_gives_its_slot_away() -> None:
    engine, answers, _ = count_down(15, 15, 4)
    engine.step()
    answers[0].cancelled = answers[1].cancelled = True
    finish(engine)
    assert answers[2].tokens == [3, 2, 1]
    assert not answers[0].finished


def test_cache_grows_for_long_answers(build: Build, processor: NativeProcessor, monkeypatch: Any) -> None:
    monkeypatch.setattr("crab_lightning.models.engine.BLOCK", 4)
    module = lively(build, max_new_tokens=30)
    batch = questions(processor, 1)[0]
    module.announce(batch)
    expected = module.answer(batch).tokens
    assert [p.tokens for p in module.generate(batch)] == [len(expected[0])]


def test_sampled_answer_depends_on_its_seed_alone(build: Build, processor: NativeProcessor) -> None:
    module = lively(build, max_new_tokens=12)
    one, two = questions(processor, 2)

    def sampled(*, beside: bool, seed: int) -> list[int]:
        engine = module.engine(slots=2)
        if beside:
            module.queue(engine, two, [Sampling(2.0, 1.0, 99)])
        [answer] = module.queue(engine, one, [Sampling(2.0, 0.9, seed)])
        finish(engine)
        return answer.tokens

    assert sampled(beside=False, seed=3) == sampled(beside=True, seed=3)
    assert sampled(beside=False, seed=3) != sampled(beside=False, seed=4)


@pytest.mark.parametrize("sampling", [Sampling(1.0, 1e-6), Sampling(1e-39), Sampling(5e-324)])
def test_top_p_or_temperature_of_next_to_nothing_is_greedy(
    build: Build, processor: NativeProcessor, sampling: Sampling
) -> None:
    module = lively(build, max_new_tokens=6)
    batch = questions(processor, 1)[0]
    engine = module.engine(slots=1)
    [answer] = module.queue(engine, batch, [sampling])
    finish(engine)
    assert answer.tokens == module.answer(batch).tokens[0]


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_stream_gives_out_answers_of_earlier_batches_and_leaves_none(
    build: Build, processor: NativeProcessor
) -> None:
    module = lively(build, max_new_tokens=9)
    batches = questions(processor)
    expected = {id(b.samples[0]): module.generate(b)[0].text for b in batches}
    batches[3].repeated = [True]
    given = [p for b in batches for p in module.stream(b)] + list(module.drain())
    assert {id(p.sample): p.text for p in given} == {
        key: text for key, text in expected.items() if key != id(batches[3].samples[0])
    }
    assert module.drain() == []
