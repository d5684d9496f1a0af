"""The HTML page of ``build stats``: one file, nothing is fetched when it is opened."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from crab_lightning.builder.statistics import Statistics
from crab_lightning.builder.statistics_figures import draw_figures

PAGE = "statistics.html"
NUMBERS = "statistics.json"
_TEMPLATE = "statistics.html.j2"


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
    page.write_bytes(page_text(statistics, pictures).encode())
    numbers.write_bytes((json.dumps(statistics.jsonable(), indent=1, ensure_ascii=False) + "\n").encode())
    return [page, numbers, *(path for _, path in pictures)]


def page_text(statistics: Statistics, pictures: Sequence[tuple[str, Path]] = ()) -> str:
    """Return the page; every text that comes from a manifest is escaped.

    Args:
        statistics: What to show.
        pictures: Caption and PNG file of each picture.
    """
    # autoescape: class names and folder names come from files that anybody may have written.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    images = [(text, base64.b64encode(path.read_bytes()).decode()) for text, path in pictures]
    return environment.get_template(_TEMPLATE).render(s=statistics, pictures=images)
