"""MkDocs' hooks: what a page links to outside of docs/ becomes part of the site, which has to work without a network.

On GitHub such a link leads to a file of the repository. Here README, CONTRIBUTING and CHANGELOG are pages; another
document becomes one below ``repository/``, source text a page that shows it, a folder its README or a list of what is
in it, and anything else (results, pictures) is copied as it is.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import File, Files
    from mkdocs.structure.nav import Navigation
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: documents beside docs/ that have a place in the navigation; docs/ itself is its first page
PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    DOCS: "index.md",
}
#: a folder with Dokka's pages, if any
KOTLIN = os.environ.get("KOTLIN_PAGES")
#: what is shown as text, and how it is coloured; names without a suffix by themselves
LANGUAGES = {
    ".py": "python", ".toml": "toml", ".cpp": "cpp", ".h": "c", ".sh": "bash", ".yml": "yaml", ".csv": "text",
    "Makefile": "makefile", "LICENSE": "text",
}  # fmt: skip
#: the target of a link or an image in Markdown, and its anchor
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(#[^)\s]*)?(?=\))")
#: a page that the search does not look at and that has no table of contents
HEAD = "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to, and what that links to."""
    from mkdocs.structure.files import File

    found = [*(path for path in PAGES if path != DOCS), *DOCS.glob("*.md")]
    for path in found:  # grows
        if not path.is_relative_to(DOCS):
            content = _content(path)
            if content is None:
                files.append(File.generated(config, place(path), abs_src_path=str(path)))
            else:
                files.append(File.generated(config, place(path), content=content))
        targets = dict.fromkeys(_targets(path))
        found += [target for target in targets if target not in found and not target.is_relative_to(DOCS)]
    return files


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    """A link to the Kotlin API's pages, where `make docs` could have them made."""
    from mkdocs.structure.nav import Link, Section

    if KOTLIN:
        use = next(item for item in nav.items if isinstance(item, Section) and item.title == "Use")
        use.children.append(Link("Kotlin", "kotlin/index.html"))


def on_post_build(config: MkDocsConfig) -> None:
    """The Kotlin API's pages, which Dokka makes, beside ours."""
    if KOTLIN:
        shutil.copytree(ROOT / KOTLIN, Path(config.site_dir) / "kotlin", dirs_exist_ok=True)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are on the site."""
    origin = _origin(page.file)
    if origin.with_suffix("").is_file():  # text of a program
        return markdown

    def on_the_site(link: re.Match[str]) -> str:
        target = _resolved(origin, link[1])
        if target is None:
            return link[0]
        return os.path.relpath(place(target), Path(page.file.src_uri).parent) + (link[2] or "")

    return LINK.sub(on_the_site, markdown)


def place(path: Path) -> str:
    """Where a file or folder of the repository is on the site, as MkDocs names sources."""
    if path in PAGES:
        return PAGES[path]
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = f"repository/{path.relative_to(ROOT).as_posix()}"
    if path.is_dir():
        return f"{name}/files.md"
    return f"{name}.md" if _language(path) else name


def _content(path: Path) -> str | None:
    """A page's text; None where the file is copied."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        entries = sorted(entry for entry in path.iterdir() if entry.name[0] not in "._" or entry.name == "__init__.py")
        return f"{HEAD}# {name}\n\n" + "\n".join(map(_line, entries)) + "\n"
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    if language := _language(path):
        return f"{HEAD}# {name}\n\n````````{language}\n{path.read_text(encoding='utf-8')}\n````````\n"
    return None


def _line(entry: Path) -> str:
    """An entry of a folder's list: results as links, anything else with what it says of itself."""
    if entry.is_file() and not _language(entry):
        return f"- [{entry.name}]({entry.name})"
    code = entry / "__init__.py" if entry.is_dir() else entry
    name = f"- `{entry.name}{'/' if entry.is_dir() else ''}`"
    if code.suffix != ".py" or not code.is_file():
        return name
    said = ast.get_docstring(ast.parse(code.read_text(encoding="utf-8")))
    return f"{name}: {said.splitlines()[0]}" if said else name


def _language(path: Path) -> str | None:
    return LANGUAGES.get(path.suffix or path.name)


def _targets(path: Path) -> Iterator[Path]:
    """What a document or folder links to inside the repository."""
    if path.is_dir() or path.suffix == ".md":
        folder_or_file = path / "files" if path.is_dir() else path
        for link in LINK.finditer(_content(path) or ""):
            if target := _resolved(folder_or_file, link[1]):
                yield target


def _resolved(origin: Path, link: str) -> Path | None:
    """The file or folder of the repository that ``link`` in ``origin`` names; a folder's README for the folder."""
    if "://" in link or link.startswith("mailto:"):
        return None
    target = (origin.parent / link).resolve()
    if not target.exists() or not target.is_relative_to(ROOT):
        return None
    return target / "README.md" if (target / "README.md").is_file() else target


def _origin(file: File) -> Path:
    """The file of the repository that a page is made of; of a folder's list, a name in that folder."""
    for path, name in PAGES.items():
        if file.src_uri == name:
            return path
    if file.src_uri.startswith("repository/"):
        return ROOT / file.src_uri.removeprefix("repository/")
    return DOCS / file.src_uri
