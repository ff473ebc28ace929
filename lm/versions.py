"""Which version of a package is installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable


def version_of(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    return {name: version for name in packages if (version := version_of(name)) is not None}
