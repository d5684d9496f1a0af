"""Guessed tokens make answers come in fewer steps and change no answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crab_lightning.models import engine as engines
from crab_lightning.models import foresight
from crab_lightning.models.engine import Sampling
from crab_lightning.models.foresight import Foresight
from crab_lightning.structures import Batch
from tests.distributed.sharded_fit import of_kind
from tests.models.conftest import Build
from tests.models.test_every_adapter import filled


def test_guesses_follow_what_was_written_and_stop_where_they_do_not_pay() -> None:
    seen = Foresight()
    for _ in range(100):
        for at in range(5):
            seen.learn([7, 8, 9, 10, 11][:at], 7 + at)
    assert seen.pays
    assert seen.guess([], 3) == [7, 8, 9]
    assert seen.guess([0, 8, 9, 10], 4) == [11]
    assert seen.guess([1, 2, 3], 4) == []
    for token in range(100, 200):
        seen.learn([token], token + 1000)
    assert not seen.pays
    assert seen.guess([], 3) == []


@pytest.mark.parametrize("kind", ["ilora", "moka"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, top_p=0.9, seed=3)])
def test_answers_are_the_same_in_fewer_steps(
    build: Build, prompts: list[Batch], kind: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = filled(build(adapter=of_kind(kind), max_new_tokens=12)).eval()
    monkeypatch.setattr(foresight, "_LATELY", 0.8)

    def asked(guesses: int) -> tuple[list[list[int]], int]:
        monkeypatch.setattr(engines, "GUESSES", guesses)
        engine, steps = module.engine(2), 0
        answers = []
        with torch.no_grad():
            for batch in (prompts[0], prompts[0], prompts[2]):
                answers += module.queue(engine, batch, [sampling] * len(batch))
                while engine.busy:
                    engine.step()
                    steps += 1
        return [answer.tokens for answer in answers], steps

    plain, steps = asked(0)
    guessed, fewer = asked(2)
    assert guessed == plain
    # an adapter that looks at the row reads one token at a time
    assert fewer < 0.8 * steps if kind == "ilora" else fewer == steps
