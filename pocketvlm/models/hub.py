"""A checkpoint by its name on Hugging Face's hub, ``org/name[@revision]``: what an export reads of it, in their cache.

huggingface_hub fetches, resumes, checks and caches; it alone knows where the hub is (HF_ENDPOINT), the token (``hf auth
login``, HF_TOKEN) and the cache (HF_HOME). Only files that are read are fetched: never code, pickles, or other layouts
of the same weights; the small ones first, so that a model that cannot be exported is refused before its weights come.
"""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

from pocketvlm.errors import CheckpointError, one_line
from pocketvlm.files import found, label
from pocketvlm.models.directory import ADAPTER, ADAPTER_WEIGHTS, CONFIG, INDEX, WEIGHTS, instead, read_config, shards

NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})(?:@([\w.][\w./-]{0,199}))?", re.ASCII)
#: What is read around the weights, and of what lies in folders only templates.
AROUND, NOT_AROUND = ("*.json", "*.jinja", "merges.txt", "tokenizer.model", "limits.txt"), ("*/*.json", "*/*.txt")
LOG_IN = "`hf auth login`, or set HF_TOKEN"


class Transfer(Protocol):
    """Told how many bytes are to come, and of each that came."""

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, amount: int) -> None: ...


def checkpoint_directory(where: str | Path, progress: Transfer | None = None, *, weights: bool = True) -> Path:
    """A checkpoint's directory: ``where`` itself, or, of a name where nothing lies, its snapshot in the cache.

    The snapshot's folder is called after its commit. Without ``weights`` only what stands around them is there.

    :raises CheckpointError: there is no such model, it may not be read, is of no family that is known, or cannot come
    """
    path, name = Path(where), NAME.fullmatch(str(where))
    if name is None or found(path.exists) or found(path.is_symlink):
        return path
    repository, revision = name.groups()
    with _in_one_line(repository, revision):
        sizes = _listed(repository, revision)
        directory = _fetched(repository, revision, AROUND, NOT_AROUND)
        if found((directory / CONFIG).exists):
            read_config(directory / CONFIG)
        if not weights:
            return directory
        files = _weight_files(repository, directory, sizes)
        # Of a commit: a branch may have moved since.
        missing = sum(sizes.get(file, 0) for file in files if not found((directory / file).exists))
        if missing:
            _check_space(directory, missing)
        advance: Callable[[int], None] = _nobody
        if missing and progress is not None:
            progress.phase(f"download {repository}", missing)
            advance = progress.advance
        return _fetched(repository, directory.name, [glob.escape(file) for file in files], (), advance)


def _nobody(amount: int) -> None:
    pass


def _listed(repository: str, revision: str | None) -> Mapping[str, int]:
    """The names and bytes of a repository's files; none where the hub is out of reach: then the cache decides."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        DisabledRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError, DisabledRepoError):
        raise
    except _transfer_errors():
        return {}
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _transfer_errors() -> tuple[type[Exception], ...]:
    """The system's, and those of huggingface_hub's HTTP client, whichever it has: its own are of that kind."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)))


def _fetched(
    repository: str,
    revision: str | None,
    wanted: Sequence[str],
    unwanted: Sequence[str] = (),
    advance: Callable[[int], None] = _nobody,
) -> Path:
    """The snapshot, in which the files that fit ``wanted`` are now."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Counter(tqdm):
        """Shows nothing and passes on what is written to the disk."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("unit") == "B" and "transfer" not in (kwargs.get("name") or "")
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                advance(int(n))
            return super().update(n)

    return Path(
        snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(wanted),
            ignore_patterns=list(unwanted),
            tqdm_class=Counter,
            library_name="pocketvlm",
        )
    )


def _weight_files(repository: str, directory: Path, sizes: Mapping[str, int]) -> list[str]:
    """The files of weights that transformers would read.

    :raises CheckpointError: there are none: what is there instead, and what to do
    """
    names = list(sizes) or [path.name for path in directory.iterdir()]
    if ADAPTER in names and not {WEIGHTS, INDEX} & set(names):
        return [ADAPTER_WEIGHTS] if ADAPTER_WEIGHTS in names else _none(repository, ADAPTER_WEIGHTS, names)
    if WEIGHTS not in names and INDEX in names:
        return shards(directory)
    return [WEIGHTS] if WEIGHTS in names or not sizes else _none(repository, WEIGHTS, names)


def _none(repository: str, lacks: str, names: Sequence[str]) -> NoReturn:
    raise CheckpointError(f"{repository} has no {lacks}{instead(names, repository)}")


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise CheckpointError(
            f"{label(directory.parents[2])} has {free / 1e6:,.0f} MB free, the weights have {needed / 1e6:,.0f} MB: "
            "make room, or set HF_HOME to another disk"
        )


@contextmanager
def _in_one_line(repository: str, revision: str | None) -> Iterator[None]:
    """What huggingface_hub raises inside, in a line that says what to do."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def refused(words: str, error: Exception) -> NoReturn:
        raise CheckpointError(f"{repository}: {words}") from error

    try:
        yield
    except GatedRepoError as error:
        refused(f"the model is gated: ask for access on its page, then {LOG_IN} of the account that has it", error)
    except (RepositoryNotFoundError, HFValidationError) as error:
        refused(f"no such directory, and no model of that name on the hub; if it is private: {LOG_IN}", error)
    except RevisionNotFoundError as error:
        refused(f"the model has no revision {one_line(repr(revision), 80)}: a branch, a tag or a commit", error)
    except LocalEntryNotFoundError as error:
        if is_offline_mode():
            refused(
                "no such directory, and HF_HUB_OFFLINE is set while the cache has not all files of a model of that "
                "name: fetch it once without",
                error,
            )
        refused(f"no such directory, and the hub cannot be reached ({one_line(error.__cause__ or error, 120)})", error)
    except HfHubHTTPError as error:
        refused(f"the hub refuses it ({one_line(error, 160)})", error)
    except _transfer_errors() as error:
        refused(f"the download stopped ({one_line(error, 120)}): the same command fetches the files that lack", error)
