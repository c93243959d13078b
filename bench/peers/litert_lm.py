"""Google's LiteRT-LM on a bundle's own LiteRT parts, packed as a .litertlm: the same graphs and weights in its loop.

LiteRT-LM takes texts and says tokens of its own, so a request is for so many tokens of one text. It never computes the
logits of a prompt's last token in a prefill: what it was given last, its decode begins with. Pictures it encodes only
inside of a conversation's prefill, so there is no time of theirs alone.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.bench.peers import About, PeerError, PeerJob
from pocketvlm.bench.peers.own_engine import check_parts
from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.errors import one_line
from pocketvlm.machine.module import module_command

ENGINE, PACKAGE = "litert", "litert-lm-api"
#: The tokens that a text is sought for which is as many of them as it is repeated.
TRIED = 4096


@dataclass
class LiteRtLm:
    """A loaded engine; a session for each request, since it cannot go back. ``said``: the text of one token.

    ``ahead``: how many tokens the next session is to decode.
    """

    about: About
    library: Any
    engine: Any
    said: str
    ahead: int = 1
    depth: int = 0
    session: Any = None

    def expect(self, what: str, tokens: int) -> None:
        """Before ``start``: a session is made for so many tokens."""
        self.ahead = tokens if what == "generate" else 1

    def start(self, token_ids: npt.NDArray[np.int64]) -> None:
        """In an empty KV cache. The first token after these is given, too: decode begins with it."""
        if self.session is not None:
            self.session.close()
        greedy = self.library.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
        self.session = self.engine.create_session(
            apply_prompt_template=False, max_output_tokens=self.ahead, sampler_config=greedy
        )
        self.depth = len(token_ids)
        if self.depth:
            self.session.run_prefill([self.said * self.depth])

    def prefill(self, token_ids: npt.NDArray[np.int64]) -> None:
        """In its own chunks, and the last token in a decode step, which gives its logits."""
        self.session.run_prefill([self.said * len(token_ids)])
        self._decode(1)

    def generate(self, token_ids: npt.NDArray[np.int64]) -> None:
        """Its own tokens, one after the other."""
        if not self.depth:
            self.session.run_prefill([self.said])
        self._decode(len(token_ids))

    def _decode(self, tokens: int) -> None:
        """:raises PeerError: its answer ended before it had so many"""
        self.session.run_decode()
        done = self.session.get_benchmark_info().last_decode_token_count
        if done != tokens:
            raise PeerError(f"LiteRT-LM's answer ended after {done} of {tokens} tokens")


def prepare(job: PeerJob) -> None:
    """Pack the bundle's parts, where that is not done yet, and have XNNPACK's packed weights kept beside them.

    :raises PeerError: it is not installed, or the bundle has no LiteRT parts that it takes
    """
    if importlib.util.find_spec("litert_lm") is None:
        raise PeerError(f"{PACKAGE} is not installed: pip install {PACKAGE}")
    check_parts(job, ENGINE)
    path = packed_path(job, open_bundle(job.bundle))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        command, environment = module_command("pocketvlm", "litertlm", job.bundle, "--output", str(path))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise PeerError(one_line((done.stderr.strip().splitlines() or ["packing it failed"])[-1]))
        with open_peer(job):
            pass


def packed_path(job: PeerJob, bundle: Bundle) -> Path:
    """Where the .litertlm of a bundle is kept; the packed weights lie in a folder beside it."""
    files = bundle.manifest.files
    digests = "".join(files[name].sha256 for name in sorted(files))
    key = hashlib.sha256(f"{digests} {version(PACKAGE)}".encode()).hexdigest()[:16]
    return Path(job.cache) / f"litert-lm-{key}" / "model.litertlm"


@contextmanager
def open_peer(job: PeerJob) -> Iterator[LiteRtLm]:
    """With the job's threads and room for its tokens; a first token, which belongs to the loading.

    :raises PeerError: it does not take the file
    """
    library = importlib.import_module("litert_lm")
    library.set_min_log_severity(library.LogSeverity.ERROR)
    path = packed_path(job, open_bundle(job.bundle))
    try:
        engine = library.Engine(
            str(path),
            backend=library.Backend.CPU(thread_count=job.threads),
            max_num_tokens=job.length,
            cache_dir=str(path.parent),
            enable_benchmark=True,
        )
    except RuntimeError as error:
        raise PeerError(f"LiteRT-LM does not load {path}: {one_line(error)}") from error
    with engine:
        about = About(f"{PACKAGE} {version(PACKAGE)}", "the bundle's own", path.stat().st_size)
        opened = LiteRtLm(about, library, engine, text_of_one_token(engine, job.shape.vocab_size))
        opened.start(np.zeros(0, np.int64))
        opened.generate(np.zeros(1, np.int64))
        yield opened


def text_of_one_token(engine: Any, vocab_size: int) -> str:
    """A text which, repeated, is one token each time.

    :raises PeerError: none of the first tokens is such a text
    """
    for token in range(min(TRIED, vocab_size)):
        said: str = engine.detokenize([token])
        if said.strip() and engine.tokenize(said * 3) == [token] * 3:
            return said
    raise PeerError("no token of the bundle's tokenizer stands for itself when it is repeated")
