"""A tiny checkpoint made once, and modules on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crab_lightning.models import OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch
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
