"""A tiny checkpoint made once, and modules on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from crab_lightning.models import OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch, Example
from tests.processing.examples import image_example, video_example

Build = Callable[..., OmniModule]


@pytest.fixture(scope="session")
def batch(processor: NativeProcessor) -> Batch:
    """Two training samples of unequal length."""
    examples = [video_example(count=4, seconds=1.0), image_example(target="a longer answer here")]
    return processor.collate([processor.encode(e) for e in examples])


@pytest.fixture(scope="session")
def prompts(processor: NativeProcessor) -> list[Batch]:
    """A batch of three prompts of unequal length, then each of them alone."""
    examples = [
        video_example("a", target=None, count=4, seconds=1.0),
        image_example("b", target=None),
        video_example("c", target=None, count=2, seconds=2.0, seed=5),
    ]
    encoded = [processor.encode(e) for e in examples]
    return [processor.collate(encoded), *(processor.collate([e]) for e in encoded)]


def assert_batches_change_no_answer(module: Any, prompts: Sequence[Example]) -> None:
    """Prompts of a batch are answered as each alone, by the engine and by the model's own forward."""
    processor = module.processor
    encoded = [processor.encode(prompt) for prompt in prompts]
    batch = processor.collate(encoded)
    together = module.generate(batch)
    assert together == [module.generate(processor.collate([one]))[0] for one in encoded]
    assert len({prediction.text for prediction in together}) > 1
    assert module.engine(1).blocks is not None
    with torch.no_grad():
        own = module.answer(batch).tokens
    assert [prediction.text for prediction in together] == [processor.decode(tokens) for tokens in own]
