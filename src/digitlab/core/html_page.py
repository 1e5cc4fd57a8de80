"""What all HTML pages share: the environment of their templates and their content security policy.

Reports, ``digitlab demo`` and ``digitlab watch`` use it.
"""

import base64
import hashlib
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def template_environment(package: str, folder: str = "templates") -> Environment:
    """Return the environment of the templates in ``folder`` of ``package``. Jinja2 escapes all values of a page."""
    return Environment(
        loader=PackageLoader(package, folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def security_policy(script: str, *, images: str = "data:", other_scripts: str = "") -> str:
    """Return a content security policy: a page may run ``script``, identified by its hash, and load nothing else.

    Styles within the page are allowed. ``images`` are the allowed sources of images, ``other_scripts`` those of scripts
    besides ``script``.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"'sha256-{digest}' {other_scripts}".rstrip()
    return f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src {scripts}"
