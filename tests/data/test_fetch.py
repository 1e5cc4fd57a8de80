"""Downloads from real local servers that fail in different ways."""

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import digitlab.data.fetch as fetch_module
from digitlab.core.errors import DataError
from digitlab.data.checksum import check_file
from digitlab.data.fetch import RetryPolicy, fetch

BODY = bytes(range(256)) * 1000
HALF = len(BODY) // 2
SHA256 = hashlib.sha256(BODY).hexdigest()
# With one that never answers; the others may take their time, as on a busy machine.
_SILENCE_SECONDS = 1.0


class Mirror(ThreadingHTTPServer):
    """Serves BODY; the path of a request says how."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.requests: list[tuple[str, str | None]] = []  # path and Range of each
        self.released = threading.Event()

    def __call__(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        path, asked = self.path[1:], self.headers.get("Range")
        self.server.requests.append((path, asked))
        getattr(self, path)(int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0)

    def answer(self, code: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def whole(self, offset: int) -> None:
        self.answer(200, BODY)

    def ranges(self, offset: int) -> None:
        if not offset:
            self.answer(200, BODY)
        elif offset >= len(BODY):
            self.answer(416, b"")
        else:
            self.answer(206, BODY[offset:], Content_Range=f"bytes {offset}-{len(BODY) - 1}/{len(BODY)}")

    def breaks(self, offset: int) -> None:
        self.answer(200, BODY[:HALF], length=len(BODY))

    def garbage(self, offset: int) -> None:
        self.answer(200, b"<html>sign in to use this network</html>")

    def endless(self, offset: int) -> None:
        self.answer(200, BODY, length=10 * len(BODY))

    def silent(self, offset: int) -> None:
        self.server.released.wait()

    def leisurely(self, offset: int) -> None:
        time.sleep(0.5)
        self.answer(200, BODY)

    def busy(self, offset: int) -> None:
        first = [path for path, _ in self.server.requests] == ["busy"]
        self.answer(*((503, b"") if first else (200, BODY)))

    def gone(self, offset: int) -> None:
        self.answer(404, b"")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr: tests look at what is written there."""


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "set.bin"


def get(target: Path, *urls: str) -> None:
    seconds = _SILENCE_SECONDS if any(url.endswith("/silent") for url in urls) else 600
    retry_policy = RetryPolicy(timeout_seconds=seconds, attempts=2, backoff_seconds=0.01)
    fetch(urls, target, verify=lambda path: check_file(path, SHA256), retry_policy=retry_policy)


def begin(target: Path, content: bytes) -> Path:
    part = target.with_name("set.bin.part")
    part.parent.mkdir()
    part.write_bytes(content)
    return part


def test_a_file_is_downloaded_without_output(mirror: Mirror, target: Path, capfd) -> None:
    get(target, mirror("whole"))
    assert target.read_bytes() == BODY
    assert not target.with_name("set.bin.part").exists()
    assert capfd.readouterr() == ("", "")


def test_an_existing_file_is_not_requested(mirror: Mirror, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"here")
    get(target, mirror("whole"))
    assert (target.read_bytes(), mirror.requests) == (b"here", [])


@pytest.mark.parametrize("broken", ["gone", "silent", "garbage", "breaks"])
def test_the_next_mirror_is_used_if_one_fails(mirror: Mirror, target: Path, broken: str) -> None:
    get(target, mirror(broken), mirror("ranges"))
    assert target.read_bytes() == BODY


def test_a_closed_port_is_skipped_at_once(mirror: Mirror, target: Path, monkeypatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as closed:
        dead = f"http://127.0.0.1:{closed.server_port}/"
    fetch([dead, mirror("whole")], target, verify=lambda path: None)
    assert (target.read_bytes(), pauses) == (BODY, [])


def test_another_mirror_completes_a_partial_download(mirror: Mirror, target: Path) -> None:
    get(target, mirror("breaks"), mirror("ranges"))
    assert target.read_bytes() == BODY
    assert mirror.requests[-1] == ("ranges", f"bytes={HALF}-")


def test_a_part_left_by_a_killed_process_is_resumed(mirror: Mirror, target: Path) -> None:
    begin(target, BODY[:1000])
    get(target, mirror("ranges"))
    assert target.read_bytes() == BODY
    assert mirror.requests == [("ranges", "bytes=1000-")]


def test_a_server_that_ignores_the_range_starts_the_file_again(mirror: Mirror, target: Path) -> None:
    begin(target, BODY[:1000])
    get(target, mirror("whole"))
    assert target.read_bytes() == BODY


def test_a_part_with_wrong_content_is_downloaded_from_the_start(mirror: Mirror, target: Path) -> None:
    begin(target, b"x" * 1000)
    get(target, mirror("ranges"))
    assert target.read_bytes() == BODY
    assert mirror.requests == [("ranges", "bytes=1000-"), ("ranges", None)]


@pytest.mark.parametrize("content", [BODY, BODY + b"more"], ids=["whole", "too long"])
def test_a_complete_part_is_moved_and_an_overlong_one_downloaded_again(
    mirror: Mirror, target: Path, content: bytes
) -> None:
    begin(target, content)
    get(target, mirror("ranges"))
    assert target.read_bytes() == BODY
    assert len(mirror.requests) == (1 if content == BODY else 2)


@pytest.mark.parametrize(("path", "requests"), [("busy", 2), ("silent", 2), ("breaks", 2), ("gone", 1), ("garbage", 1)])
def test_only_temporary_errors_are_tried_again(mirror: Mirror, target: Path, path: str, requests: int) -> None:
    get(target, mirror(path), mirror("ranges"))
    assert [asked for asked, _ in mirror.requests].count(path) == requests


def test_the_pause_before_another_attempt_doubles(mirror: Mirror, target: Path, monkeypatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(DataError):
        fetch(
            [mirror("breaks")], target, verify=lambda _: None, retry_policy=RetryPolicy(attempts=4, backoff_seconds=0.1)
        )
    assert pauses == pytest.approx([0.1, 0.2, 0.4])


def test_if_all_mirrors_fail_one_error_gives_each_reason(mirror: Mirror, target: Path) -> None:
    reasons = {
        "gone": "HTTP 404 Not Found",
        "silent": "no answer in time",
        "breaks": f"broke off after {HALF:,} of {len(BODY):,} bytes",
        "garbage": "what it sends is not the file expected (checksum)",
    }
    with pytest.raises(DataError) as caught:
        get(target, *(mirror(path) for path in reasons))
    assert str(caught.value).split("\n") == [f"  {mirror(path)}: {reason}" for path, reason in reasons.items()]
    assert not target.exists()


def test_a_mirror_that_does_not_stop_sending_is_cut_off(mirror: Mirror, target: Path, monkeypatch) -> None:
    monkeypatch.setattr(fetch_module, "_MAX_BYTES", HALF)
    with pytest.raises(DataError, match="sends more than"):
        get(target, mirror("endless"))
    assert not target.with_name("set.bin.part").exists()


def test_an_error_names_a_folder_that_cannot_be_created(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/set\.bin: cannot be written"):
        get(tmp_path / "file" / "set.bin", mirror("whole"))


@pytest.mark.runs
def test_two_simultaneous_processes_download_once(mirror: Mirror, target: Path) -> None:
    # An empty package in place of ``digitlab.data``, which would import torch and Lightning in each process.
    code = (
        "import sys, types; from pathlib import Path; "
        "package = sys.modules['digitlab.data'] = types.ModuleType('digitlab.data'); package.__path__ = [sys.argv[1]]; "
        "from digitlab.data.fetch import fetch; "
        "fetch([sys.argv[2]], Path(sys.argv[3]), verify=lambda path: None)"
    )
    folder = Path(str(fetch_module.__file__)).parent
    command = [sys.executable, "-c", code, str(folder), mirror("leisurely"), str(target)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(600) for process in processes] == [0, 0]
    assert target.read_bytes() == BODY
    assert len(mirror.requests) == 1
