"""Guesses the next tokens of an answer from earlier answers, so that one step can read several tokens.

The model checks every guess: it reads the guessed tokens together with the token before them. So guesses do
not change the text (speculative decoding, arXiv:2211.17192, with n-grams instead of a smaller model).
"""

from __future__ import annotations

from collections.abc import Sequence

GUESSES = 2
"""Largest number of tokens to guess in a step. More guesses made answers slower on a CPU."""

_CONTEXT = 3
_REMEMBERED = 100_000
_LATELY = 0.99
_WORTH = 0.5


class Foresight:
    """Remembers which token followed each sequence of three tokens in the answers so far."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}
        self._foreseen = 0.0

    @property
    def pays(self) -> bool:
        """Whether at least half of the latest tokens would have been guessed correctly."""
        return self._foreseen >= _WORTH

    def learn(self, before: Sequence[int], token: int) -> None:
        """Learn the next token of an answer.

        Args:
            before: The tokens of the answer so far.
            token: The token that follows.
        """
        context = _context(before)
        self._foreseen = _LATELY * self._foreseen + (1 - _LATELY) * (self._next.get(context) == token)
        if len(self._next) >= _REMEMBERED:
            self._next.clear()
        self._next[context] = token

    def guess(self, before: Sequence[int], most: int) -> list[int]:
        """Return up to ``most`` tokens that may follow ``before``; none if ``pays`` is False."""
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
