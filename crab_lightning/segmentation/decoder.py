"""What turns boxes and points into masks, as the rest of the package sees it."""

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
    """One mask to be made.

    Args:
        image: RGB, uint8 ``(3, H, W)``, any size.
        prompt: Box, points, names or several of these, in pixels of this image.
    """

    image: Tensor
    prompt: Prompt


@runtime_checkable
class MaskDecoder(Protocol):
    """Turns requests into masks. It is pickled to loader workers, so it loads weights when first used.

    A decoder may also have a method ``load()``, which loads its weights before anything is answered and
    raises ``OSError`` where they cannot be had. One that reads names in the place of boxes and points says so
    with an attribute ``reads_names = True``.
    """

    # No types here: a config may name any class with such a method, also one without annotations, and the
    # parser would compare them.
    def decode(self, requests: Any, /) -> Any:
        """Return one mask a request, at its image's size and in the same order.

        Args:
            requests: A sequence of :class:`MaskRequest`.

        Returns:
            bool ``(H, W)`` each. A decoder may give floating-point logits instead, positive inside; protocols
            that score probabilities use them, all others take their sign.
        """
        ...


def check_request(request: MaskRequest, *, named: bool = False) -> None:
    """Refuse a request that a decoder cannot serve.

    Args:
        request: The request.
        named: Whether the decoder reads names, in the place of box and points.

    Raises:
        ValueError: If the image is no uint8 RGB image, or the prompt has not what the decoder reads.
    """
    image = request.image
    if image.ndim != 3 or image.shape[0] != 3 or str(image.dtype) != "torch.uint8":
        raise ValueError(f"image is {image.dtype} {tuple(image.shape)}; it must be uint8 (3, height, width)")
    if named:
        if not any(name.strip() for name in request.prompt.names):
            raise ValueError("the prompt has no name; a thing that is not named is an empty mask already")
    elif not request.prompt and request.prompt.names:
        raise ValueError(
            "the prompt has a name alone, and this decoder reads boxes and points; Sam3Decoder reads names"
        )
    elif not request.prompt:
        raise ValueError("the prompt has neither box nor points; an absent object is an empty mask already")


def content_key(image: Tensor) -> bytes:
    """Return what identifies a picture: two files with the same pixels share one embedding."""
    digest = hashlib.blake2b(image.contiguous().numpy().data, digest_size=16)
    digest.update(str(tuple(image.shape)).encode())
    return digest.digest()


class LastUsed:
    """Keeps the values that were used last. A copy or a pickle of it is empty.

    Args:
        size: Number of values kept; 0 keeps none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def __reduce__(self) -> tuple[type[LastUsed], tuple[int]]:
        return type(self), (self.size,)

    def fill(
        self, keys: Sequence[Hashable], make: Callable[[list[int]], Sequence[Any]]
    ) -> dict[Hashable, Any]:
        """Return the value of every key, made at once for those that are new.

        Args:
            keys: Keys, repeats allowed.
            make: Gets positions in ``keys`` and returns their values.
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
