"""HTML pages: one environment of templates, which escapes every text that is put into a page.

What becomes markup is written in a ``.j2`` file beside the code that fills it, and nowhere else. All pages
extend ``page.html.j2``: by its Content-Security-Policy nothing is fetched, and only its own script runs.
"""

from __future__ import annotations

import base64
import hashlib
import io
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """Return a whole page.

    Args:
        template: Its path in the package, such as ``reports/page.html.j2``.
        values: What the template names. Texts are escaped; what :func:`draw` returned is taken as it is.
    """
    return _environment().get_template(template).render(values)


def draw(template: str, macro: str, *values: Any) -> Markup:
    """Return what one macro of a template makes of values.

    Args:
        template: Its path in the package.
        macro: Name of the macro.
        values: Its arguments; texts are escaped.
    """
    return Markup(getattr(_environment().get_template(template).module, macro)(*values))


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("crab_lightning", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["sha256"] = csp_hash
    return made


def picture_uri(picture: Any, form: str = "JPEG", **options: Any) -> str:
    """Return a picture of Pillow as a data URI; the options are those of its ``save``."""
    out = io.BytesIO()
    picture.save(out, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def csp_hash(text: str) -> str:
    """Return how a Content-Security-Policy names a script or style that may be used."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
