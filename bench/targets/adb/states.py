"""What state a device is in, by adb's word for it, and what a person does about one that cannot be used."""

from __future__ import annotations

import re

from pocketvlm.errors import one_line

#: What to do, by adb's word; the device's serial is said before.
REMEDIES = {
    "unauthorized": "has not allowed this computer: unlock it and accept the question about USB debugging",
    "authorizing": "is being asked to allow this computer: unlock it and accept, then run it again",
    "connecting": "is being connected: wait a moment, then run it again; plug it in again if it stays so",
    "offline": "does not answer: plug it in again, or run adb reconnect",
    "no permissions": "may not be opened by this user: install the platform's udev rules, or run adb's server as root",
    "not attached": "is not attached any more: look at the cable, and run it again",
}
NONE_ATTACHED = (
    "no phone is attached: plug one in, with USB debugging switched on in its developer options (docs/device-runs.md)"
)
#: How adb's errors name the state of a device that a command did not reach (AOSP's packages/modules/adb/transport.cpp).
_NAMED = (
    (re.compile(r"\bdevice (?:still )?(unauthorized|authorizing|connecting|offline)\b"), None),
    (re.compile(r"\binsufficient permissions for device\b"), "no permissions"),
    (re.compile(r"\bdevice '[^'\n]*' not found\b|\bno devices/emulators found\b"), "not attached"),
)


def remedy(state: str) -> str:
    """What is to be done about a device in a state that is not "device"."""
    return REMEDIES.get(state, f"is in the state {one_line(state, 40)}: start Android on it")


def named_state(text: str) -> str | None:
    """The state of a device that adb says it does not reach, a key of ``REMEDIES``; None of any other error."""
    for pattern, state in _NAMED:
        found = pattern.search(text)
        if found is not None:
            return state or found[1]
    return None


def complaint(text: str, most: int = 200) -> str:
    """adb's own error, for an error of ours: what follows it may be advice for other cases."""
    lines = [line for line in text.splitlines() if line.strip()]
    own = [line for line in lines if re.match(r"(?:adb: )?error: |adb: ", line)]
    line = own[0] if own else lines[-1] if lines else ""
    return one_line(re.sub(r"^(?:adb: )?(?:error: )?", "", line), most)
