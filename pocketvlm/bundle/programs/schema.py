"""ExecuTorch's program.fbs, as far as exports use it."""

from __future__ import annotations

from typing import Final

from pocketvlm.bundle.programs.flat import Schema, Unions

PROGRAM: Final[Schema] = {
    "Program": [
        ("version", "u32"), ("methods", "[Method]"), ("constants", "[Buffer]"), ("delegate_data", "[Buffer]"),
        ("segments", "[Segment]"), ("constant_segment", "Subsegment"), ("mutable_segments", "[Subsegment]"),
        ("named_data", "[NamedData]"),
    ],
    "Method": [
        ("name", "text"), ("meta", "Meta"), ("values", "[Value]"), ("inputs", "[i32]"), ("outputs", "[i32]"),
        ("chains", "[Chain]"), ("operators", "[Operator]"), ("delegates", "[Delegate]"), ("buffers", "[i64]"),
        ("devices", "[Device]"),
    ],
    "Meta": [("inputs", "text"), ("outputs", "text")],
    "Value": [("value", "<value>")],
    "Null": [],
    "Int": [("number", "i64")],
    "Bool": [("number", "bool")],
    "Double": [("number", "f64")],
    "Tensor": [
        ("type", "i8"), ("storage_offset", "i32"), ("sizes", "[i32]"), ("order", "[u8]"), ("gradient", "bool"),
        ("buffer", "u32"), ("allocation", "Allocation"), ("layout", "i8"), ("dynamism", "i8"), ("extra", "Extra"),
    ],
    "IntList": [("items", "[i64]")],
    "OptionalTensorList": [("items", "[i32]")],
    "Allocation": [("memory", "u32"), ("low", "u32"), ("high", "u32")],
    "Extra": [
        ("mutable_segment", "u64"), ("name", "text"), ("location", "i8"), ("device_type", "i8"), ("device", "i8"),
    ],
    "Chain": [("inputs", "[i32]"), ("outputs", "[i32]"), ("instructions", "[Instruction]"), ("trace", "[Null]")],
    "Instruction": [("call", "<call>")],
    "KernelCall": [("operator", "i32"), ("arguments", "[i32]")],
    "DelegateCall": [("delegate", "i32"), ("arguments", "[i32]")],
    "Operator": [("name", "text"), ("overload", "text")],
    "Delegate": [("id", "text"), ("data", "Reference"), ("specs", "[Null]")],
    "Reference": [("location", "i8"), ("index", "u32")],
    "Device": [("buffer", "i32"), ("type", "i8"), ("index", "i8")],
    "Buffer": [("content", "bytes")],
    "Segment": [("offset", "u64"), ("size", "u64")],
    "Subsegment": [("segment", "u32"), ("offsets", "[u64]")],
    "NamedData": [("key", "text"), ("segment", "u32")],
}  # fmt: skip
#: Of values and instructions, those that exports write.
UNIONS: Final[Unions] = {
    "value": {1: "Null", 2: "Int", 3: "Bool", 4: "Double", 5: "Tensor", 7: "IntList", 11: "OptionalTensorList"},
    "call": {1: "KernelCall", 2: "DelegateCall"},
}
