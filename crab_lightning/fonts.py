"""Figures of matplotlib whose text may be in any script."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Widespread fonts with characters of other scripts. The font of matplotlib is tried before them.
_OTHER_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans SC",
    "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans", "Hiragino Sans GB",
    "Heiti TC", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Devanagari",
    "Noto Sans Thai", "Unifont",
)  # fmt: skip


def new_figure(**options: Any) -> Figure:
    """Return an empty figure whose text may use all installed fonts of other scripts.

    A character that no installed font has is drawn as a box, without a warning of matplotlib.

    Args:
        options: Arguments of ``matplotlib.figure.Figure``.
    """
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
    own = list(rcParams["font.family"])
    rcParams["font.family"] = [*own, *(name for name in _installed() if name not in own)]
    return Figure(**options)


@cache
def _installed() -> tuple[str, ...]:
    from matplotlib.font_manager import get_font_names

    known = set(get_font_names())
    return tuple(name for name in _OTHER_SCRIPTS if name in known)
