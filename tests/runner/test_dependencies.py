"""What the runner is compiled with: where this system's packages come from is read from apt's own lists."""

from __future__ import annotations

import pytest

from android_app.runner.dependencies import mirror_in

PLACE = "http://mirror.example/debian"
STANZA = f"Types: deb\n# http://snapshot.example\nURIs: {PLACE}\nSuites: bookworm\nComponents: main\n"


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        (f"deb {PLACE} trixie main", PLACE),
        (f"deb [signed-by=/usr/share/keyrings/a.gpg] {PLACE} trixie main", PLACE),
        (f"deb [signed-by=/usr/share/keyrings/a.gpg arch=amd64] {PLACE} trixie main contrib", PLACE),
        (f"deb [ arch=amd64,arm64 signed-by=/a/b.gpg ] {PLACE} trixie main # mirror", PLACE),
        (f"deb [arch=amd64 trusted=yes]{PLACE} trixie main", PLACE),
        (
            f"# deb http://old.example trixie main\ndeb-src http://src.example sid main\n\tdeb\t{PLACE} sid main",
            PLACE,
        ),
        (f"deb cdrom:[Debian GNU/Linux 12]/ bookworm main\ndeb {PLACE} trixie main", PLACE),
        (f"deb [signed-by=/a/b.gpg] https://other.example/linux bookworm stable\ndeb {PLACE} trixie main", PLACE),
        ("deb mirror+file:/etc/apt/mirrors/debian.list bookworm main", "mirror+file:/etc/apt/mirrors/debian.list"),
        (STANZA, PLACE),
        (STANZA.replace("URIs: ", "URIs:\n  "), PLACE),
        (STANZA.replace(PLACE, f"{PLACE} http://second.example/debian"), PLACE),
        (STANZA.replace(PLACE, "http://off.example") + "Enabled: no\n\n" + STANZA, PLACE),
        (STANZA.replace("Types: deb", "Types: deb-src"), None),
        ("deb [signed-by=/a/b.gpg", None),
        ("deb", None),
        ("", None),
    ],
)
def test_the_first_place_of_the_systems_own_packages(sources: str, wanted: str | None) -> None:
    assert mirror_in(sources) == wanted
