"""Files of packages from the npm registry, pinned by the digest of the whole package."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

REGISTRY = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
CACHE = Path(__file__).parents[1] / ".asv" / "npm"
SECONDS = 60


def integrity(content: bytes) -> str:
    """The digest as npm and browsers write it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


@dataclass(frozen=True)
class Package:
    """A package at one version; `digest` is what ``npm view NAME@VERSION dist.integrity`` says."""

    name: str
    version: str
    digest: str

    def file(self, path: str) -> bytes:
        """The content of one of its files."""
        with tarfile.open(fileobj=io.BytesIO(self._archive())) as archive:
            member = archive.extractfile(f"package/{path}")
            assert member is not None
            return member.read()

    def _archive(self) -> bytes:
        kept = CACHE / f"{self.name}-{self.version}.tgz"
        if kept.exists() and integrity(kept.read_bytes()) == self.digest:
            return kept.read_bytes()
        address = f"{REGISTRY}/{self.name}/-/{self.name}-{self.version}.tgz"
        with urllib.request.urlopen(address, timeout=SECONDS) as response:
            content: bytes = response.read()
        if integrity(content) != self.digest:
            raise ValueError(f"{address} has digest {integrity(content)}, not {self.digest}")
        CACHE.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        return content
