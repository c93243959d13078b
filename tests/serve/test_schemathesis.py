"""A thousand requests that schemathesis makes of the API's own document, right ones and wrong ones, to a real server.

What it looks at in each reply: https://schemathesis.readthedocs.io/en/stable/reference/checks/
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pocketvlm.runtime import PocketVlm
from tests.serve.conftest import REPOSITORY, Served, Start
from tests.serve.test_openai_client import CONFIG, SAMPLED, ask, user

#: Not every request of the right form can be answered: turns alternate, a schema has to be one, the cache has an end.
LEFT_OUT = "positive_data_acceptance"
#: What a thousand requests may leave behind. 0.1 MB of each would be more.
MEMORY = 64 << 20
#: Some are refused less than they should be, some answered with less, some not at all, and each one leaves memory.
FAULTS = """
import pocketvlm.serve.answering as answering, pocketvlm.serve.app as app, pocketvlm.serve.schema as schema
schema._check_obeyed = lambda request: None
config, kept, whole = answering.generation_config, [], app.Reply.whole
answering.generation_config = lambda request, *limits: config(request, *limits) if request.top_k is None else 1 // 0
app.Reply.whole = lambda self, said, end: {name: one for name, one in whole(self, said, end).items() if name != "usage"}
app.tiling_of = lambda query, vision: {}
app.Door._refusal = lambda self, request: kept.append(b"x" * (1 << 18))
"""


def schemathesis(served: Served, directory: Path, *options: str) -> tuple[int, str]:
    """Its exit status and what it prints; the same requests each time."""
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{served.port}/openapi.json",
            "--header", f"Authorization: Bearer {served.key}", "--exclude-checks", LEFT_OUT,
            "--generation-deterministic", "--no-color", "--request-timeout", "100", "--warnings", "off", "--no-shrink",
            *options,
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "SCHEMATHESIS_HOOKS": "tests.serve.schemathesis_hooks"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def resident(served: Served) -> int:
    """Bytes of memory that the server has."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{served.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def test_a_thousand_requests_are_answered_as_the_document_says(
    start: Start, bundle: Path, pictures: Path, vlm: PocketVlm, tmp_path: Path
) -> None:
    served = start(bundle, "--images", pictures, key="the key")
    question = [user("What is it?")]
    wanted = vlm.stream(question, config=CONFIG).read()
    client = served.client()
    assert ask(client, question, **SAMPLED).choices[0].message.content == wanted
    before = resident(served)
    status, said = schemathesis(served, tmp_path, "--phases", "coverage,fuzzing", "--max-examples", "150")
    assert status == 0, said
    after = resident(served)
    assert served.metric("requests_total") > 1000
    answered = served.metric("requests_total", path="/v1/chat/completions", status="200")
    assert answered > 150 and served.metric("requests_total", path="/v1/chat/completions", status="400") > 150
    assert after - before < MEMORY
    assert ask(client, question, **SAMPLED).choices[0].message.content == wanted
    served.until_busy(0)


def test_what_is_wrong_is_found(start: Start, bundle: Path, tmp_path: Path) -> None:
    """So that the test above is known to see it."""
    served = start(bundle, before=FAULTS, key="the key")
    before = resident(served)
    status, said = schemathesis(served, tmp_path, "--phases", "coverage", "--continue-on-failure")
    assert status == 1, said
    for problem in (
        "Server error", "Response violates schema", "Schema-violating request accepted",
        "API accepts requests without authentication",
    ):  # fmt: skip
        assert problem in said
    assert resident(served) - before > MEMORY
