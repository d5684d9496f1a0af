"""Names that are similar to other names, and parts of messages such as a number with its noun."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

_FORMS = {"bounding", "file", "filename", "files", "list", "path", "paths", "px", "url", "xy", "xyxy"}
"""Words that say in which form a value is, so that ``mask_path`` is another name for ``mask``."""


_OTHER_NAMES = {
    "box": {"bbox", "box_d", "bbox_d", "coord", "gt_bbox", "gt_box", "object_box", "rect", "target_box"},
    "clip": {"clip_id", "clip_name", "clipid"},
    "mask": {"gt_mask", "label_mask", "mask_image", "segmentation"},
    "option": {"answer_option", "choice"},
}
"""Names that other datasets give to these keys, as :func:`_core` returns them."""


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return `` (did you mean 'NAME'?)`` for a message about an unknown name, or an empty text.

    Args:
        name: The unknown name.
        known: The names that exist.

    Example:
        >>> did_you_mean("lable", ["label", "path"])
        " (did you mean 'label'?)"
    """
    near = get_close_matches(str(name), dict.fromkeys(map(str, known)), 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def similar(key: str, name: str) -> bool:
    """Return whether ``key`` is probably another spelling of ``name``.

    The number, the case, letters that are missing, added or in another order, and words about the form of a
    value make no difference.

    Args:
        key: The name that was found.
        name: The name that is known.

    Example:
        >>> [similar(key, "options") for key in ("Options", "optoins", "option_list", "captions", "optional")]
        [True, True, True, False, False]
        >>> [similar(key, "box") for key in ("bbox_xyxy", "boundingBox", "boxes", "box_count")]
        [True, True, True, False]
    """
    found, wanted = _core(key), _core(name)
    if found in _OTHER_NAMES.get(wanted, ()):
        return True
    if found == wanted or sorted(found) == sorted(wanted):
        return True
    alike = SequenceMatcher(None, found, wanted).ratio()
    other_word = found[:1] != wanted[:1] or found.startswith(wanted)
    return alike > (0.9 if other_word else 0.8)


def _core(name: str) -> str:
    """Return a name in lower case, in the singular and without words about the form of the value."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    core = "_".join(word for word in words if word not in _FORMS)
    return core.removesuffix("es") if core.endswith("xes") else core.removesuffix("s")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 file`` or ``1,200 files``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
