"""The protocol of mask decoders, which make masks from boxes, points or names, and helpers for them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from crab_lightning.segmentation.prompts import Prompt


@dataclass(frozen=True, eq=False)
class MaskRequest:
    """A request for one mask.

    Args:
        image: RGB, uint8 ``(3, H, W)``, any size.
        prompt: Box, points, names or several of these, in pixels of this image.
    """

    image: Tensor
    prompt: Prompt


@runtime_checkable
class MaskDecoder(Protocol):
    """Makes masks. A decoder is pickled and sent to loader workers, so it loads weights at the first use.

    A decoder may also have a method ``load()``, which loads its weights before the first request and raises
    ``OSError`` if they cannot be loaded. A decoder that needs names has an attribute ``reads_names = True``.
    """

    # There are no types here, because the config parser would compare them, and a class without annotations
    # is allowed too.
    def decode(self, requests: Any, /) -> Any:
        """Return one mask for each request, in the same order and with the size of the request's image.

        Args:
            requests: A sequence of :class:`MaskRequest`.

        Returns:
            The masks, bool ``(H, W)`` each. A decoder may instead return floating-point logits, which are
            positive inside. Evaluation protocols that score probabilities use the logits; all others use only
            the sign.
        """
        ...


def check_requests(requests: Sequence[MaskRequest], *, named: bool = False) -> None:
    """Raise an error if a decoder cannot make a mask for one of some requests.

    Args:
        requests: The requests.
        named: Whether the decoder needs names; otherwise it needs a box or points.

    Raises:
        ValueError: If an image is not a uint8 RGB image, or a prompt lacks what the decoder needs.
    """
    for request in requests:
        image, prompt = request.image, request.prompt
        if image.ndim != 3 or image.shape[0] != 3 or str(image.dtype) != "torch.uint8":
            found = f"{image.dtype} {tuple(image.shape)}"
            raise ValueError(f"image is {found}; it must be uint8 (3, height, width)")
        if named:
            if not any(name.strip() for name in prompt.names):
                raise ValueError("the prompt has no name; use an empty mask for an object without a name")
        elif not prompt and prompt.names:
            raise ValueError("the prompt has only a name, which this decoder cannot read; use Sam3Decoder")
        elif not prompt:
            raise ValueError(
                "the prompt has neither a box nor points; use an empty mask for an absent object"
            )


def content_key(image: Tensor) -> bytes:
    """Return a hash of a picture's pixels and size; pictures with the same key share one embedding."""
    digest = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16)
    digest.update(str(tuple(image.shape)).encode())
    return digest.digest()


class LastUsed:
    """A cache of the values that were used last. A copy or a pickle of the cache is empty.

    Args:
        size: Largest number of values; 0 keeps none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def __reduce__(self) -> tuple[type[LastUsed], tuple[int]]:
        return type(self), (self.size,)

    def fill(
        self, keys: Sequence[Hashable], make: Callable[[list[int]], Sequence[Any]]
    ) -> dict[Hashable, Any]:
        """Return the value of every key; one call of ``make`` makes all values that the cache lacks.

        Args:
            keys: Keys; a key may occur more than once.
            make: Function that gets positions in ``keys`` and returns the values for these positions.
        """
        found = {key: self._values[key] for key in keys if key in self._values}
        new = {key: i for i, key in reversed(list(enumerate(keys))) if key not in found}
        positions = sorted(new.values())
        if positions:
            found |= dict(zip((keys[i] for i in positions), make(positions), strict=True))
        for key in dict.fromkeys(keys):
            self._values[key] = found[key]
            self._values.move_to_end(key)
        while len(self._values) > self.size:
            self._values.popitem(last=False)
        return found

    def get(self, image: Tensor, make: Callable[[Tensor], Any]) -> Any:
        """Return the value of one picture, which ``make`` makes if the cache lacks it."""
        key = content_key(image)
        return self.fill([key], lambda _: [make(image)])[key]
