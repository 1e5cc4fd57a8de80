"""A report shows markup in names, errors and settings as plain text."""

from html.parser import HTMLParser

import pytest

from digitlab.report.gather import write_report

EVIL = "<img src=x onerror=alert(1)><script>alert(2)<script>'\"&{{7*7}}"


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("of", ["one run", "many"])
def test_markup_in_names_errors_and_settings_is_shown_as_text(make_run, tmp_path, of):
    root = tmp_path / f"runs {EVIL}"
    run = make_run(root / EVIL, "optimizer.lr=0.3", error=f"RunError: {EVIL}")
    make_run(root / "other", "optimizer.lr=0.2")
    run.overrides_file.write_text(f"- |-\n  optimizer.lr={EVIL}\n")
    run.config.write_text(run.config.read_text().replace("lr: 0.3", "lr: '" + EVIL.replace("'", "''") + "'"))
    run.confusion.write_text(run.confusion.read_text().replace("7,", EVIL.replace('"', "") + ",", 1))
    write_report([run.path if of == "one run" else root], tmp_path / "report.html")
    page = _Tags()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert EVIL in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [tag for tag, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs.get("src", "data:").startswith("data:") for _, attrs in page.tags)
