"""What the tokenizers library makes of code points, for the Kotlin library's own tables."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

from tokenizers import normalizers

from android_app.unicode_tables import CATEGORIES, class_of_points, combining_classes, decompositions

NAMES = [*CATEGORIES, "no", "digit"]


def write_unicode(path: Path) -> None:
    """The SHA-256 of all code points' categories, and texts of which many are composed, with what they become."""
    categories = "".join(NAMES[number] for number in class_of_points())
    nfc, nfd = normalizers.NFC(), normalizers.NFD()
    composed = [*map(chr, decompositions()), "가", "각", "힣", "갂ᆨ"]
    apart = [nfd.normalize_str(letter) for letter in composed]
    marks = [*map(chr, combining_classes()), *map(chr, range(0x1161, 0x1176)), *map(chr, range(0x11A7, 0x11C3))]
    letters = [*composed, *"aeounAEOU αωкиあは" + "ᄀᄒ" + "का", *(text[0] for text in apart)]
    random = Random(5)
    drawn = [
        random.choice(letters) + "".join(random.choice(marks if random.random() < 0.8 else letters) for _ in range(5))
        for _ in range(4000)
    ]
    texts = [*composed, *apart, *drawn]
    written = {
        "categories": hashlib.sha256(categories.encode()).hexdigest(),
        "composed": [[text, nfc.normalize_str(text)] for text in texts],
    }
    path.write_text(json.dumps(written))
