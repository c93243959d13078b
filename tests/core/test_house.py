"""The house's own rules: what an import costs and brings, links, packaging, versions, and documents that are true."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docs import parity
from docs.support_table import with_table
from pocketvlm.bench.report.formats.github import BIGGER, SMALLER
from pocketvlm.cli import COMMANDS, EXTRAS, main
from pocketvlm.models.families import FAMILIES

ROOMS = ("export", "quant", "runtime", "bench")
#: What `pip install pocketvlm` does not bring.
ONLY_WITH_EXTRAS = (
    "torch", "onnx", "onnx_ir", "safetensors", "jinja2", "transformers", "executorch", "ai_edge_litert", "matplotlib",
    "scipy", "rapidfuzz", "starlette", "uvicorn", "sse_starlette", "prometheus_client", "httpx2", "ray",
)  # fmt: skip


def python(repository: Path, code: str) -> str:
    """What a fresh interpreter prints when it runs ``code`` in the repository."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def seconds(repository: Path, code: str) -> float:
    started = time.perf_counter()
    python(repository, code)
    return time.perf_counter() - started


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sources(repository: Path) -> list[Path]:
    """Every Python file of the package, once."""
    return sorted(repository / name for name in _package_files(repository) if name.endswith(".py"))


# --- Imports ----------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_importing_the_package_takes_less_than_a_fifth_of_a_second(repository: Path) -> None:
    """The best of several: another process may slow each one down, and none makes it faster than it is."""
    pairs = [(seconds(repository, "pass"), seconds(repository, "import pocketvlm")) for _ in range(9)]
    assert min(loaded for _, loaded in pairs) - min(bare for bare, _ in pairs) < 0.2


def test_importing_the_package_brings_no_heavy_module(repository: Path) -> None:
    loaded = json.loads(python(repository, "import json, sys, pocketvlm; print(json.dumps(list(sys.modules)))"))
    assert not {"torch", "onnxruntime", "numpy", "PIL", "pydantic", "tokenizers", "click"} & set(loaded)


def test_the_command_lines_modules_import_rooms_only_when_they_run(repository: Path) -> None:
    names = [f"pocketvlm.cli.commands.{module}" for module in COMMANDS.values()]
    loaded = json.loads(
        python(repository, f"import json, sys, {', '.join(names)}; print(json.dumps(list(sys.modules)))")
    )
    assert not {"torch", "onnxruntime", "transformers", "scipy", "rapidfuzz", "jinja2", "starlette"} & set(loaded)
    assert not [name for name in loaded if name.startswith(tuple(f"pocketvlm.{room}" for room in (*ROOMS, "models")))]


def test_a_base_installation_imports_core_runtime_bench_and_cli(repository: Path) -> None:
    """Where the extras' packages are missing, all modules import but models, quant, export, fidelity, serve, and what
    lmms-eval and VLMEvalKit import."""
    code = f"""
import importlib, pkgutil, sys
for name in {ONLY_WITH_EXTRAS}:
    sys.modules[name] = None
import pocketvlm
skipped = (
    "pocketvlm.models", "pocketvlm.quant", "pocketvlm.export", "pocketvlm.fidelity", "pocketvlm.serve",
    "pocketvlm.harnesses.lmms_eval", "pocketvlm.harnesses.vlmevalkit",
)
def walk(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name not in (*skipped, "pocketvlm.__main__"):
            loaded = importlib.import_module(module.name)
            print(module.name)
            if module.ispkg:
                walk(loaded)
walk(pocketvlm)
"""
    imported = python(repository, code).split()
    assert {"pocketvlm.bundle.open", "pocketvlm.runtime", "pocketvlm.bench", "pocketvlm.cli"} <= set(imported)


def test_a_room_under_its_folders_name_is_refused(repository: Path) -> None:
    lines = [line for room in ROOMS for line in (f"import {room}", f"from {room} import x", f"from {room}.y import z")]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--output-format", "json", "-"],
        input="\n".join(lines) + "\n",
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert [found["location"]["row"] for found in json.loads(done.stdout)] == list(range(1, len(lines) + 1))


def test_every_core_module_is_under_contract(repository: Path, pyproject: dict[str, Any]) -> None:
    contracts = {contract["id"]: contract for contract in pyproject["tool"]["importlinter"]["contracts"]}
    inside = [
        path for path in (repository / "pocketvlm").iterdir() if path.stem[0] != "_" and path.suffix in ("", ".py")
    ]
    rooms = {path.stem for path in inside if path.is_dir()} - {"bundle", "images", "machine", "cli"}
    core = {f"pocketvlm.{path.stem}" for path in inside if path.stem not in {*rooms, "cli"}}
    assert set(contracts["core"]["source_modules"]) == core
    assert set(contracts) - {"circles"} == {"core", *rooms}


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_a_link_to_the_folder_beside_the_package(repository: Path, room: str) -> None:
    link = repository / "pocketvlm" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..", room)
    assert (link / "__init__.py").is_file()


def test_the_wheel_holds_every_module_and_recipe(repository: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, tree)
    for folder in ("pocketvlm", *ROOMS):
        shutil.copytree(repository / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "out").mkdir()
    python(tree, f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path / 'out')!r})")
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("pocketvlm/")}
    assert packed == set(_package_files(repository))


def _package_files(repository: Path) -> Iterator[str]:
    for folder in ("pocketvlm", *ROOMS):
        prefix = "" if folder == "pocketvlm" else "pocketvlm/"
        for path in (repository / folder).rglob("*"):
            if path.parent.name == "results":  # what was measured is not shipped
                continue
            inside_a_link = folder == "pocketvlm" and path.relative_to(repository / folder).parts[0] in ROOMS
            if (
                path.suffix in {".py", ".toml", ".json", ".txt", ".cpp", ".jinja", ".html"} or path.name == "py.typed"
            ) and not inside_a_link:
                yield prefix + path.relative_to(repository).as_posix()


def test_a_classs_name_is_its_own_in_the_whole_package(repository: Path, sources: list[Path]) -> None:
    classes = Counter(
        node.name
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    twice = {name for name, times in classes.items() if times > 1}
    assert not twice, "another class of the package has this name"


# --- Versions ---------------------------------------------------------------------------------------------------------


def test_the_constraints_satisfy_what_the_package_asks_for(repository: Path, pyproject: dict[str, Any]) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    matches = [re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.+]*)", line) for line in lines if not line.startswith("#")]
    pinned = {match[1]: match[2] for match in matches if match}
    assert len(pinned) == len(matches), "a line that is not name==version, or a name twice"
    project = pyproject["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, (*wanted, *pyproject["build-system"]["requires"])):
        if requirement.name != "pocketvlm":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_a_missing_package_is_brought_by_the_extra_that_the_error_names(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    brought = {extra: {canonicalize_name(Requirement(line).name) for line in lines} for extra, lines in extras.items()}
    assert not {package: extra for package, extra in EXTRAS.items() if canonicalize_name(package) not in brought[extra]}


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "Makefile", "setup.sh", ".ci/run"])
def test_no_registry_is_named(repository: Path, name: str) -> None:
    text = (repository / name).read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index|--hash|find-links", text)


# --- Commands and documents -------------------------------------------------------------------------------------------


def documents(repository: Path) -> dict[Path, str]:
    """The documents' text without comments."""
    names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "android_app/README.md", "examples/README.md"]
    paths = [repository / name for name in names]
    paths += [*sorted((repository / "docs").glob("*.md")), *sorted((repository / "studies").glob("*/README.md"))]
    return {path: re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL) for path in paths}


def targets(repository: Path, *where: str) -> set[str]:
    """What ``make help`` lists there."""
    lines = _make(repository, *where, "help").splitlines()
    return {line.split()[0] for line in lines if line.startswith("  ")}


@pytest.mark.parametrize("folder", [".", "studies"])
def test_make_lists_every_target(repository: Path, folder: str) -> None:
    text = (repository / folder / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    internal = {"apk-tools", "browser", "harnesses", "java"} if folder == "." else set()
    assert targets(repository, "-C", folder) - {"help"} == set(phony[1].split()) - {"help"} - internal


@pytest.mark.parametrize("where", [(), ("-C", "studies")])
def test_a_study_is_called_from_the_root_and_from_its_folder(repository: Path, where: tuple[str, ...]) -> None:
    printed = _make(repository, *where, "--dry-run", "gate-study")
    assert "\n.venv/bin/python -m studies.gate --output bench/results/gate-study.json\n" in f"\n{printed}"


def test_documents_name_commands_that_exist(repository: Path) -> None:
    possible = targets(repository) | targets(repository, "-C", "studies")
    for document, text in documents(repository).items():
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`|^    [^\n]*$", text, re.DOTALL | re.MULTILINE))
        named = set(re.findall(r"(?:^|`)\s*make ([a-z][a-z0-9-]+)", code, re.MULTILINE))
        assert named <= possible, document
        commands = set(re.findall(r"(?:^|`|bin/)pocketvlm ([a-z]+)", code, re.MULTILINE))
        assert commands <= set(COMMANDS), document


def test_the_workflow_checks_tests_and_builds_the_site(repository: Path) -> None:
    possible = targets(repository) | targets(repository, "-C", "studies")
    called = {
        path.stem: [
            name for line in re.findall(r"run: make (.*)", path.read_text(encoding="utf-8")) for name in line.split()
        ]
        for path in (repository / ".github" / "workflows").glob("*.yml")
    }
    assert called["ci"] == ["check", "test", "docs", "test-lowest"]
    assert {name for names in called.values() for name in names if "=" not in name} <= possible


def test_the_workflows_call_commands_as_they_are(repository: Path) -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (repository / ".github/workflows").glob("*.yml")}
    lines = [line for text in texts.values() for line in re.findall(r"\.venv/bin/pocketvlm (.*)", text)]
    assert len(lines) > 5
    for name, *words in map(shlex.split, lines):
        command = main.get_command(click.Context(main), name)
        assert command is not None, name
        command.make_context(name, words)  # refuses an option that is not there any more
    (directory,) = re.findall(r"--github (\S+)", texts["history"])
    read = re.findall(r"tool: (\w+)\s+output-file-path: (\S+)", texts["history"])
    assert dict(read) == {
        "customBiggerIsBetter": f"{directory}/{BIGGER}",
        "customSmallerIsBetter": f"{directory}/{SMALLER}",
    }


def test_documents_link_to_files_that_exist(repository: Path) -> None:
    for document, text in documents(repository).items():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_begins_with_the_two_commands(repository: Path) -> None:
    first = re.search(r"```\w*\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make export-android", "make test"]


def test_the_command_line_lists_its_commands_and_all_of_them_have_help(repository: Path) -> None:
    text = python(repository, "from pocketvlm.cli import main; main(['--help'], prog_name='pocketvlm')")
    assert re.findall(r"^  ([a-z]+)  ", text.split("Commands:")[1], re.MULTILINE) == list(COMMANDS)
    for name in COMMANDS:
        assert f"pocketvlm {name}" in python(
            repository, f"from pocketvlm.cli import main; main(['{name}', '--help'], prog_name='pocketvlm')"
        )


def test_the_page_of_the_house_has_every_room(repository: Path) -> None:
    page = repository / "docs" / "house.md"
    linked = {
        (page.parent / path).resolve() for path in re.findall(r"\]\((\.\./[^)#]+)\)", page.read_text(encoding="utf-8"))
    }
    rooms = {
        file.parent.resolve()
        for hall in ("pocketvlm", "export", "bench")
        for file in (repository / hall).glob("*/__init__.py")
    }
    assert not [str(room.relative_to(repository)) for room in rooms - linked]


def test_the_readmes_table_is_what_the_registries_say(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert with_table(text) == text, "python -m docs.support_table writes it anew"


def test_the_parity_table_is_the_last_contracts_and_has_every_family(repository: Path) -> None:
    result = json.loads(parity.RESULT.read_text(encoding="utf-8"))
    text = parity.PAGE.read_text(encoding="utf-8")
    assert parity.with_table(text, result) == text
    # transformers has no class of the other two
    assert result["families"].keys() == FAMILIES.keys() - {"bluelm_v", "minicpm"}, "make parity writes it anew"


def test_a_contract_that_failed_makes_no_table() -> None:
    said = '<properties><property name="logits onnx" value="1e-6"/></properties>'
    passed = f'<testsuite><testcase name="test_logits[llama]">{said}</testcase></testsuite>'
    assert parity.recorded(passed) == {"llama": {"logits onnx": "1e-6"}}
    with pytest.raises(ValueError, match="no table"):
        parity.recorded(passed.replace("</testcase>", "<failure/></testcase>"))


def _make(repository: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=repository, env=environment, capture_output=True, text=True, check=True
    ).stdout
