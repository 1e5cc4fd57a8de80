"""The page over HTTP: who is let in, what is served, and that it is read only."""

import json
import os

import pytest
from werkzeug.test import Client

from digitlab.core.errors import ConfigError
from digitlab.watch.laboratory import Laboratory
from digitlab.watch.server import WatchApp, WatchServer
from fixtures.run_files import write_result

TOKEN = "abc_DEF-123"


@pytest.fixture
def root(tmp_path, begin_run):
    run = begin_run(tmp_path / "outputs" / "mnist-mlp" / "run")
    write_result(run, "finished", 0.9)
    (run.path / "report.html").write_text("<p>the report</p>")
    (tmp_path / "secret.html").write_text("<p>outside</p>")
    return tmp_path / "outputs"


@pytest.fixture
def client(root):
    return Client(WatchApp(Laboratory(root), token=TOKEN))


def get(client, path, **options):
    return client.get(path, **{"base_url": "http://127.0.0.1:6007", **options})


def test_the_page_and_its_data_are_served_with_the_token(client):
    page = get(client, f"/{TOKEN}/")
    assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
    assert "digitlab watch" in page.text
    assert "://" not in page.text.replace("http://www.w3.org/2000/svg", ""), "nothing comes from another host"
    state = get(client, f"/{TOKEN}/state?since=0")
    assert state.content_type == "application/json"
    assert [run["id"] for run in state.json["runs"]] == ["mnist-mlp/run"]
    assert get(client, f"/{TOKEN}/state?since=x&rows=-").status_code == 200
    moved = get(client, f"/{TOKEN}")
    assert (moved.status_code, moved.headers["Location"]) == (308, f"/{TOKEN}/")


@pytest.mark.parametrize(
    "path", ["/", "/state", "/wrong/", f"/{TOKEN}x/", "/abc/state", "/files/a.html", f"//{TOKEN[:-1]}/"]
)
def test_without_the_token_everything_is_refused(client, path):
    answer = get(client, path)
    assert answer.status_code == 403
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:6007", 200), ("localhost:8080", 200), ("LOCALHOST", 200), ("evil.example", 403),
        ("evil.example:6007", 403), ("127.0.0.1.evil.example", 403), ("192.168.0.7:6007", 403), ("", 403),
        ("127.0.0.1@evil.example", 403),
    ],
)  # fmt: skip
def test_only_requests_to_this_machine_by_its_own_names_are_answered(client, host, status):
    """A page on the web can point its own name to this machine (DNS rebinding), but it cannot change the header."""
    answer = client.get(f"/{TOKEN}/", headers={"Host": host}, environ_overrides={"HTTP_HOST": host})
    assert answer.status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_the_page_is_read_only(client, method):
    for path in (f"/{TOKEN}/", f"/{TOKEN}/state", f"/{TOKEN}/files/mnist-mlp/run/report.html"):
        answer = client.open(path, method=method, base_url="http://127.0.0.1")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_report_is_served_in_a_sandbox(client):
    answer = get(client, f"/{TOKEN}/files/mnist-mlp/run/report.html")
    assert (answer.status_code, answer.text) == (200, "<p>the report</p>")
    assert answer.headers["Content-Security-Policy"].startswith("sandbox ")
    assert "allow-same-origin" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.html", "mnist-mlp/../../secret.html", "%2e%2e/secret.html", "..%2fsecret.html", "link.html",
        "linked/report.html", "mnist-mlp/run/result.json", "mnist-mlp/run/.hydra/config.yaml", "mnist-mlp/run", "",
        "mnist-mlp/run/.hydra/page.html", "mnist-mlp/./run/../run/report.html", "missing.html", "a%00.html", "ROOT",
        "mnist-mlp/run/folder.html",
    ],
)  # fmt: skip
def test_other_files_are_refused_and_so_are_links(client, root, path):
    (root / "link.html").symlink_to(root.parent / "secret.html")
    (root / "linked").symlink_to(root / "mnist-mlp" / "run")
    (root / "mnist-mlp" / "run" / ".hydra" / "page.html").write_text("hidden")
    (root / "mnist-mlp" / "run" / "folder.html").mkdir()
    asked = f"/{root}/../secret.html" if path == "ROOT" else path
    answer = get(client, f"/{TOKEN}/files/{asked}")
    assert answer.status_code == 404
    assert "outside" not in answer.text
    assert get(client, f"/{TOKEN}/files//{root.parent}/secret.html").status_code == 404


def test_every_answer_forbids_frames_sniffing_caching_and_referrers(client):
    for path in (f"/{TOKEN}/", f"/{TOKEN}/state", "/", f"/{TOKEN}/missing"):
        headers = get(client, path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "unsafe-inline" not in headers["Content-Security-Policy"]
    script = get(client, f"/{TOKEN}/").headers["Content-Security-Policy"].partition("script-src")[2].partition(";")[0]
    assert script.startswith(" 'sha256-")
    assert "unsafe" not in script


def test_a_hostile_name_is_data_and_never_markup(client, root, begin_run):
    name = "<script>alert(1)<_script>"
    begin_run(root / name, "seed=</script><script>alert(2)</script>")
    assert "alert(" not in get(client, f"/{TOKEN}/").text
    state = get(client, f"/{TOKEN}/state")
    assert name in {run["id"] for run in json.loads(state.data)["runs"]}
    assert state.content_type == "application/json"


def test_a_busy_port_is_one_line(root, one_line):
    first = WatchServer(WatchApp(Laboratory(root)), port=0)
    port = int(first.address.split(":")[2].partition("/")[0])
    try:
        with pytest.raises(ConfigError, match=f"--port={port}: can't be used .*--port 0") as error:
            WatchServer(WatchApp(Laboratory(root)), port=port)
        assert one_line(str(error.value))
    finally:
        first._server.server_close()


def test_each_start_has_a_token_of_its_own(root):
    tokens = {WatchApp(Laboratory(root)).token for _ in range(5)}
    assert len(tokens) == 5
    assert min(map(len, tokens)) >= 20
    assert os.sep not in "".join(tokens)
