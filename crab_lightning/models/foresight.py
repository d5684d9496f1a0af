"""Guesses how an answer goes on from what answers said before, so that a step can read several tokens.

Each guess is checked by the model, which reads it beside the token before it: the text is what it would be
without guesses (speculative decoding, arXiv:2211.17192, with n-grams in the place of a smaller model).
"""

from __future__ import annotations

from collections.abc import Sequence

GUESSES = 2
"""Tokens that are guessed at a time. More cost more than they gave, on a CPU."""

_CONTEXT = 3
_REMEMBERED = 100_000
_LATELY = 0.99
_WORTH = 0.5


class Foresight:
    """What followed the last three tokens, wherever they were written before."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}
        self._foreseen = 0.0

    @property
    def pays(self) -> bool:
        """Whether at least half of the latest tokens would have been guessed."""
        return self._foreseen >= _WORTH

    def learn(self, before: Sequence[int], token: int) -> None:
        """Take in the next token of an answer.

        Args:
            before: The answer's tokens so far.
            token: What follows.
        """
        context = _context(before)
        self._foreseen = _LATELY * self._foreseen + (1 - _LATELY) * (self._next.get(context) == token)
        if len(self._next) >= _REMEMBERED:
            self._next.clear()
        self._next[context] = token

    def guess(self, before: Sequence[int], most: int) -> list[int]:
        """Return up to ``most`` tokens that may follow ``before``; none where guesses do not pay."""
        found: list[int] = []
        recent = list(before[-_CONTEXT:])
        while self.pays and len(found) < most:
            token = self._next.get(_context(recent))
            if token is None:
                break
            found.append(token)
            recent.append(token)
        return found


def _context(before: Sequence[int]) -> tuple[int, ...]:
    return tuple(before[-_CONTEXT:])
