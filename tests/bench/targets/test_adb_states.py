"""adb's own errors (as adb 29 to 36 print them), and what is said of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.targets.adb.client import Adb, gone
from pocketvlm.bench.targets.adb.states import REMEDIES, complaint, named_state, remedy

UNAUTHORIZED = """\
error: device unauthorized.
This adb server's $ADB_VENDOR_KEYS is not set
Try 'adb kill-server' if that seems wrong.
Otherwise check for a confirmation dialog on your device.
"""
NO_PERMISSIONS = """\
error: insufficient permissions for device: user in plugdev group; are your udev rules wrong?
See [http://developer.android.com/tools/device.html] for more information
"""


@pytest.mark.parametrize(
    ("text", "state", "first"),
    [
        (UNAUTHORIZED, "unauthorized", "device unauthorized."),
        (UNAUTHORIZED.replace("error: ", "adb: "), "unauthorized", "device unauthorized."),
        ("error: device still authorizing\n", "authorizing", "device still authorizing"),
        ("error: device still connecting\n", "connecting", "device still connecting"),
        ("error: device offline\n", "offline", "device offline"),
        ("error: device '127.0.0.1:1' not found\n", "not attached", "device '127.0.0.1:1' not found"),
        ("error: no devices/emulators found\n", "not attached", "no devices/emulators found"),
        (NO_PERMISSIONS, "no permissions", None),
        ("error: closed\n", None, "closed"),
        ("adb: error: failed to copy 'a' to 'b': remote No space left\n", None, None),
        ("something\nelse\n", None, "else"),
        ("", None, ""),
    ],
)
def test_what_adb_says(text: str, state: str | None, first: str | None) -> None:
    assert named_state(text) == state
    if first is not None:
        assert complaint(text) == first
    said = str(gone(Adb("adb", "SERIAL"), text))
    assert said.startswith("SERIAL ")
    if state is None:
        assert said.startswith("SERIAL went away in the middle (")
    else:
        assert said == f"SERIAL {REMEDIES[state]}"
    assert "confirmation dialog" not in said


def test_a_state_that_nobody_knows() -> None:
    assert remedy("recovery") == "is in the state recovery: start Android on it"


@given(st.text())
def test_any_text_gives_one_line(text: str) -> None:
    assert complaint(text).isprintable()
    assert len(complaint(text)) <= 200
    assert named_state(text) in (None, *REMEDIES)
