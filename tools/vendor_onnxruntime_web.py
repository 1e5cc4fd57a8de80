"""Puts the parts of ONNX Runtime Web that ``digitlab demo`` needs into ``src/digitlab/export/web``, compressed.

Without an option it fetches the version in ``versions.json`` and verifies every checksum there. With ``--version``
it fetches another version and writes its checksums; look at the difference before you commit it. ``npm`` fetches the
package, with the registry of its own settings. The licences come from the Python package onnxruntime of the same
project, because the package on npm contains none.
"""

import argparse
import base64
import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import files
from pathlib import Path

_PACKAGE = "onnxruntime-web"
_TARGET = Path(__file__).resolve().parents[1] / "src" / "digitlab" / "export" / "web"
_LOCK = _TARGET / "versions.json"
# The smallest bundle with a processor backend, and the library that it loads.
_PARTS = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_LICENCES = ("LICENSE", "ThirdPartyNotices.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", help="fetch this version and write its checksums")
    options = parser.parse_args()
    lock = json.loads(_LOCK.read_text(encoding="utf-8")) if _LOCK.exists() else {}
    if options.version is None and not lock:
        sys.exit(f"{_LOCK}: is missing: give a --version")
    version = options.version or lock[_PACKAGE]
    with tempfile.TemporaryDirectory() as folder:
        archive = _fetch(version, Path(folder))
        contents = _parts(archive) | _licences()
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    fetched = {_PACKAGE: version, "integrity": integrity, "sha256": sums}
    if options.version is None and fetched != lock:
        differing = [name for name, digest in sums.items() if lock["sha256"].get(name) != digest]
        sys.exit(f"{_LOCK}: has other checksums than {_PACKAGE} {version}: {', '.join(differing) or 'the archive'}")
    _TARGET.mkdir(exist_ok=True)
    for name, content in contents.items():
        if name == "LICENSE":
            (_TARGET / name).write_bytes(content)
        else:
            (_TARGET / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
    _LOCK.write_text(json.dumps(fetched, indent=2) + "\n", encoding="utf-8")
    print(f"{_PACKAGE} {version}: {', '.join(sorted(contents))} in {_TARGET}")


def _fetch(version: str, folder: Path) -> Path:
    """Fetch the package with npm, which verifies the checksum that the registry names, and return the archive."""
    subprocess.run(["npm", "pack", "--silent", f"{_PACKAGE}@{version}"], cwd=folder, check=True, stdout=sys.stderr)
    [archive] = folder.glob("*.tgz")
    return archive


def _parts(archive: Path) -> dict[str, bytes]:
    """Return the contents of ``_PARTS`` by name."""
    contents = {}
    with tarfile.open(archive) as tar:
        for name in _PARTS:
            member = tar.extractfile(f"package/dist/{name}")
            assert member is not None
            # A browser's developer tools would look for the source map, which is not in the page.
            contents[name] = member.read().partition(b"\n//# sourceMappingURL=")[0]
    return contents


def _licences() -> dict[str, bytes]:
    """Return the texts of ``_LICENCES`` by name. End with a message if the Python package is not installed."""
    names = {f"onnxruntime/{name}": name for name in _LICENCES}
    paths = {names[str(path)]: path.locate() for path in files("onnxruntime") or [] if str(path) in names}
    if len(paths) < len(_LICENCES):
        sys.exit("the licences are in the Python package onnxruntime: pip install -e '.[export]'")
    return {name: Path(str(path)).read_bytes() for name, path in paths.items()}


if __name__ == "__main__":
    main()
