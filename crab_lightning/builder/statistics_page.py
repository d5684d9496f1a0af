"""The HTML page of ``build stats``: one file, nothing is fetched when it is opened."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from crab_lightning.builder.statistics import Statistics
from crab_lightning.builder.statistics_figures import draw_figures
from crab_lightning.files import replace_json, replace_text
from crab_lightning.templates import render

PAGE = "statistics.html"
NUMBERS = "statistics.json"


def write_statistics(statistics: Statistics, folder: Path) -> list[Path]:
    """Write the page, its pictures and its numbers.

    Args:
        statistics: What to show.
        folder: Where to; made where it does not exist.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw_figures(statistics, folder)
    page, numbers = folder / PAGE, folder / NUMBERS
    replace_text(page, page_text(statistics, pictures))
    replace_json(numbers, statistics.jsonable(), indent=1)
    return [page, numbers, *(path for _, path in pictures)]


def page_text(statistics: Statistics, pictures: Sequence[tuple[str, Path]] = ()) -> str:
    """Return the page; every text that comes from a manifest is escaped.

    Args:
        statistics: What to show.
        pictures: Caption and PNG file of each picture.
    """
    images = [(text, base64.b64encode(path.read_bytes()).decode()) for text, path in pictures]
    title = f"Statistics of {statistics.root}"
    return render("builder/statistics.html.j2", title=title, s=statistics, pictures=images)
