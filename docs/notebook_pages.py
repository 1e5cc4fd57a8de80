"""A hook of MkDocs for the pages of notebooks: links in notebooks lead to pages, and each notebook can be downloaded.

``mkdocs.yml`` names this file.
"""

import re
from typing import Any

from mkdocs.structure.pages import Page


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """MkDocs calls this with the HTML of each page."""
    source = page.file.src_uri
    if not source.endswith(".ipynb"):
        return html
    # In Jupyter the same links open the files.
    html = re.sub(r'href="([\w./-]+)\.(?:ipynb|md)"', r'href="\1.html"', html)
    # Formulas and diagrams, which the notebooks do not have, would be drawn by scripts of another host.
    html = re.sub(r'<script src=""> </script>.*?<!-- End of mermaid configuration -->', "", html, flags=re.DOTALL)
    name = source.rpartition("/")[2]
    return f'<p><a href="{name}" download="{name}">Download this notebook</a></p>\n{html}'
