"""Pages about the Kotlin API, which Dokka makes of the sources' KDoc."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from android_app.library import catalog, maven
from android_app.library.archives import tree
from android_app.library.maven import Dependency

POM = """\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>dev.pocketvlm.tools</groupId><artifactId>pocketvlm</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
  <build>
    <directory>{target}</directory>
    <plugins>
      <plugin>
        <groupId>org.jetbrains.dokka</groupId><artifactId>dokka-maven-plugin</artifactId><version>{dokka}</version>
        <configuration>
          <sourceDirectories>{sources}</sourceDirectories>
          <outputDir>{target}/pages</outputDir>
          <offlineMode>true</offlineMode>
          <skipEmptyPackages>true</skipEmptyPackages>
        </configuration>
      </plugin>
    </plugins>
  </build>
</project>
"""
NEEDED = ("kotlin-stdlib", "coroutines-core-jvm", "onnxruntime", "android-all")
#: What runs examples in a browser, by another host: there are none, and pages are read without a network.
FOREIGN_SCRIPT = re.compile(rb'<script[^>]*\bsrc="https?://[^"]*"[^>]*>\s*</script>')


def written(sources: Sequence[Path], folder: Path) -> dict[str, bytes]:
    """Pages by their path, of the Kotlin below some folders. ``folder`` is Dokka's own.

    Raises:
        PocketVlmError: there is no Maven, or Dokka cannot be had or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pom = folder / "pom.xml"
    text = POM.format(
        dependencies="".join(Dependency(str(catalog.library(alias))).xml() for alias in NEEDED),
        sources="".join(f"<dir>{source}</dir>" for source in sources),
        target=folder / "target",
        dokka=catalog.version("dokka"),
    )
    pom.write_text(text, encoding="utf-8")
    maven.run("-f", str(pom), f"{catalog.library('dokka')}:dokka")
    return {name: by_itself(content) for name, content in tree(folder / "target" / "pages").items()}


def by_itself(page: bytes) -> bytes:
    """A page that loads nothing from another host."""
    return FOREIGN_SCRIPT.sub(b"", page)
