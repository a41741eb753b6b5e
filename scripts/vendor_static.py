"""Brings the browser libraries of the chat page into static/vendor, pinned by version and checksum.

Needs npm, and only when a version below is changed: the copies are part of the repository.
Usage: python scripts/vendor_static.py
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "static" / "vendor"


@dataclass(frozen=True)
class Package:
    """One npm package, and which of its files are kept under which name."""

    name: str
    version: str
    sha256: str
    files: dict[str, str]


PACKAGES = (
    Package(
        "marked",
        "18.2.1",
        "d66c5213fc203466186060105b01f51896764ba64b3797d2620d02e28e34b8ca",
        {"lib/marked.esm.js": "marked.js", "LICENSE": "marked.LICENSE"},
    ),
    Package(
        "dompurify",
        "3.4.18",
        "8b86f79c6481fec23dd81d4de32179422668912ed033c0c47e786a6e70cb3379",
        {"dist/purify.es.mjs": "purify.js", "LICENSE": "purify.LICENSE"},
    ),
    Package(
        "@highlightjs/cdn-assets",
        "11.12.0",
        "b8a006d30f45afe783072569f3d69c5b60c0e7b9ca28cd474e12f2584e2a3bd9",
        {"es/highlight.min.js": "highlight.js", "LICENSE": "highlight.LICENSE"},
    ),
)


def fetch(package: Package, folder: Path) -> Path:
    """The package's archive, downloaded into the folder. Raises SystemExit when it is not the pinned one."""
    subprocess.run(
        ["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=folder, check=True, capture_output=True
    )
    (archive,) = folder.glob("*.tgz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise SystemExit(f"{package.name}@{package.version}: checksum {digest} is not the pinned one")
    return archive


def main() -> None:
    """Rebuilds static/vendor from nothing."""
    shutil.rmtree(VENDOR, ignore_errors=True)
    VENDOR.mkdir(parents=True)
    lines = ["Unchanged copies of npm packages, brought here by scripts/vendor_static.py.", ""]
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(fetch(package, Path(folder))) as archive:
            for source, target in package.files.items():
                member = archive.extractfile(f"package/{source}")
                if member is None:
                    raise SystemExit(f"{package.name}: no file {source}")
                (VENDOR / target).write_bytes(member.read())
        lines.append(f"- {package.name} {package.version}: {', '.join(package.files.values())}")
    (VENDOR / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
