"""Tools, and a chat layout's way with them."""

from __future__ import annotations

from typing import Any

from pocketvlm.bundle.tools import Calls, ToolLayout, ToolResults

LAYOUT = ToolLayout(
    behind_system="\nTools:",
    alone="Tools:",
    between=",",
    behind=".",
    functions=False,
    calls=Calls(
        prefix='<call>{"name": "',
        behind_text='\n<call>{"name": "',
        middle='", "arguments": ',
        between='}</call>\n<call>{"name": "',
        suffix="}</call>",
    ),
    results=ToolResults(prefix="<|user|>[", between="][", suffix="]<|end|>"),
)


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": "does", "parameters": schema}}


TOOLS = [tool("weather", city={"type": "string", "maxLength": 8}), tool("add", a={"type": "integer"})]
