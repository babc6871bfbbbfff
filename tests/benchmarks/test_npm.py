"""Packages of npm: from a registry on this machine, once, and none but the one that was pinned."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from benchmarks.tools import npm
from tests.benchmarks.browser import served
from tests.conftest import import_peer

pytestmark = pytest.mark.peer

CONTENT = b"alert('a script')\n"


def package_of(archive: bytes) -> npm.Package:
    return npm.Package("scripts", "1.2.3", npm.integrity(archive))


def packed(content: bytes) -> bytes:
    """A package with one file, as npm packs it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/dist/script.js")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The package's place in the folder of a registry."""
    import_peer("pooch")
    path = tmp_path / "registry" / "scripts" / "-" / "scripts-1.2.3.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(packed(CONTENT))
    return path


@pytest.fixture
def registry(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its address; packages are kept in a folder of this test's."""
    monkeypatch.setattr(npm, "CACHE", tmp_path / "kept")
    with served(tmp_path / "registry") as address:
        monkeypatch.setattr(npm, "REGISTRY", address.rstrip("/"))
        yield address


def test_a_file_is_fetched_once(registry: str, published: Path) -> None:
    package = package_of(published.read_bytes())
    assert package.file("dist/script.js") == CONTENT
    published.unlink()
    assert package.file("dist/script.js") == CONTENT


def test_what_is_damaged_on_disk_is_fetched_again(registry: str, published: Path) -> None:
    package = package_of(published.read_bytes())
    package.file("dist/script.js")
    [kept] = npm.CACHE.iterdir()
    kept.write_bytes(packed(b"something else"))
    assert package.file("dist/script.js") == CONTENT


def test_another_package_than_the_pinned_one_is_refused(registry: str, published: Path) -> None:
    package = package_of(published.read_bytes())
    published.write_bytes(packed(b"something else"))
    with pytest.raises(ValueError, match="hash"):
        package.file("dist/script.js")
    assert list(npm.CACHE.iterdir()) == []
