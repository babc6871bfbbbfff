"""Files of packages from the npm registry, pinned by the digest of the whole package."""

from __future__ import annotations

import base64
import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

REGISTRY = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
CACHE = Path(__file__).parents[2] / ".asv" / "npm"


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
        with tarfile.open(self._archive()) as archive:
            member = archive.extractfile(f"package/{path}")
            assert member is not None
            return member.read()

    def _archive(self) -> str:
        import pooch  # here: tests name packages that they skip to fetch where there is no browser

        algorithm, _, digest = self.digest.partition("-")
        archive = f"{self.name}-{self.version}.tgz"
        return pooch.retrieve(
            f"{REGISTRY}/{self.name}/-/{archive}",
            known_hash=f"{algorithm}:{base64.b64decode(digest).hex()}",
            fname=archive,
            path=CACHE,
        )
