"""What a file of a bundle may be called."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

#: A relative POSIX path without empty, dot or dot-dot parts.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
FileName = Annotated[str, StringConstraints(pattern=rf"^{FILE_NAME.pattern}$", max_length=255)]
