"""A hook of MkDocs: a click on a picture opens it alone, because wide ones are too small to read on a phone.

``mkdocs.yml`` names this file.
"""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """MkDocs calls this with the HTML of each page. The pictures of notebooks have no file, so they get no link."""
    return re.sub(r'<img\b[^>]*\bsrc="([^":]+)"[^>]*>', r'<a class="picture" href="\1">\g<0></a>', html)
