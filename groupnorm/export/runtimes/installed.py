"""Whether a runtime is installed, in a version that was tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from groupnorm.export.errors import ExportError


def installed_versions(
    runtime: str, extra: str | None, tested: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The version of each package that a runtime needs.

    Args:
        runtime: its name for people.
        extra: of this package, that installs it; None where there is none.
        tested: package -> beginnings of the versions that were tested.

    Raises:
        ExportError: a package is missing, or has another version.
    """
    found = {}
    for package, known in tested.items():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            how = f"pip install 'groupnorm[{extra}]'" if extra else f"pip install {package}"
            raise ExportError(f"{runtime} is not installed ({package} is missing): {how}") from None
        if not any(_begins(found[package], one) for one in known):
            raise ExportError(
                f"{package} {found[package]} was never tested with this package; tested: "
                f"{', '.join(f'{package} {one}' for one in known)}"
            )
    return found


def _begins(found: str, tested: str) -> bool:
    return found == tested or found.startswith(f"{tested}.")
