"""HTML pages from templates, which escape every text that is put into a page.

All markup is written in ``.j2`` files beside the code that fills them. All pages extend ``page.html.j2``. Its
Content-Security-Policy forbids pages to fetch anything and to run any script but their own.
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
        values: The variables of the template. Texts are escaped, except for results of :func:`draw`.
    """
    return _environment().get_template(template).render(values)


def draw(template: str, macro: str, *values: Any) -> Markup:
    """Return the markup that a macro of a template produces.

    Args:
        template: Path of the template in the package.
        macro: Name of the macro.
        values: Arguments of the macro; texts are escaped.
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
    """Return a Pillow image as a data URI; the options are those of ``Image.save``."""
    out = io.BytesIO()
    picture.save(out, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def csp_hash(text: str) -> str:
    """Return the source expression with which a Content-Security-Policy allows a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
