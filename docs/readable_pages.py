"""A hook of MkDocs: small changes to the HTML of each page, so that pictures and code are readable on a phone.

``mkdocs.yml`` names this file.
"""

import re
from typing import Any

_PICTURE = re.compile(r'<img\b[^>]*\bsrc="([^":]+)"[^>]*>')
_BLOCK = re.compile(r"(<pre\b.*?</pre>)", re.DOTALL)
_CODE = re.compile(r"<code>([^<]+)</code>")
_KEYS = re.compile(r"<table>(?=\s*<thead>\s*<tr>\s*<th[^>]*>key</th>).*?</table>", re.DOTALL)
_NAME_IN_CELL = re.compile(r"(?<=<td><code>)[\w.+-]{21,}(?=</code></td>)")
_NUMBER = re.compile(r"(?<=\d) (?=%)|(?<=\d) (?=[±×] \d)|(?<=\d [±×]) (?=\d)")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


def on_page_content(html: str, **_: Any) -> str:
    """MkDocs calls this with the HTML of each page. The pictures of notebooks have no file, so they get no link."""
    html = _KEYS.sub(r'<div class="keys">\g<0></div>', html)  # on a phone, each row of such a table is a block
    html = _NAME_IN_CELL.sub(lambda name: name[0].replace("_", "_<wbr>"), html)  # leaves room for the other columns
    html = _PICTURE.sub(r'<a href="\1">\g<0></a>', html)  # a click opens the picture alone, in its full size
    parts = _BLOCK.split(html)
    # A no-break space: 92.3 ± 0.1, 28 × 28 and 95 % stay on one line.
    parts[::2] = [_CODE.sub(_breakable, _NUMBER.sub("\u00a0", part)) for part in parts[::2]]
    return "".join(parts)


def _breakable(code: re.Match[str]) -> str:
    """Return the code with places for line breaks: in long code after = , ( and /, in an option such as --out none."""
    text = re.sub(r"([=,(/])(?=[^\s/])", r"\1<wbr>", code[1]) if len(code[1]) > 20 else code[1]
    text = _OPTION.sub(r'<span class="option">\g<0></span>', text)
    return f"<code>{text}</code>"
