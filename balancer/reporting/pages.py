"""Self-contained HTML pages: one file with the pictures inside; no script, nothing fetched."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping


def render_page(template: str, pictures: Mapping[str, bytes], package: str = "balancer", **values: object) -> str:
    """A page from a package's template, which extends ``base.html`` of this one.

    Args:
        template: a file of the package's ``templates`` folder.
        pictures: PNG files by name; the template gets them in base64, as ``pictures``.
        values: what else the template speaks of. Its filter ``inline`` escapes a text and sets `code` in it.
    """
    import jinja2
    from markupsafe import Markup, escape

    def inline(text: str) -> Markup:
        return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))).replace("\n", "<br>"))

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("balancer")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    encoded = {name: base64.b64encode(png).decode() for name, png in pictures.items()}
    return environment.get_template(template).render(pictures=encoded, **values)
