"""TensorFlow Lite's schema.fbs, as far as exports use it."""

from __future__ import annotations

from typing import Final

from pocketvlm.bundle.programs.flat import Schema, Unions

TFLITE: Final[Schema] = {
    "Model": [
        ("version", "u32"), ("codes", "[Code]"), ("graphs", "[Graph]"), ("description", "text"),
        ("buffers", "[Buffer]"), ("metadata_buffers", "[i32]"), ("metadata", "[Empty]"), ("signatures", "[Signature]"),
        ("external_groups", "[Empty]"), ("external_buffers", "[Empty]"),
    ],
    "Code": [("deprecated", "i8"), ("custom", "text"), ("version", "i32"), ("code", "i32")],
    "Graph": [
        ("tensors", "[Tensor]"), ("inputs", "[i32]"), ("outputs", "[i32]"), ("operators", "[Operator]"),
        ("name", "text"),
    ],
    "Tensor": [
        ("shape", "[i32]"), ("type", "i8"), ("buffer", "u32"), ("name", "text"), ("quantization", "Quantization"),
        ("variable", "bool"), ("sparsity", "Empty"), ("shape_signature", "[i32]"), ("has_rank", "bool"),
        ("variants", "[Empty]"), ("external_buffer", "u32"),
    ],
    "Quantization": [
        ("min", "[f32]"), ("max", "[f32]"), ("scale", "{f32}"), ("zero_point", "{i64}"), ("details", "<details>"),
        ("dimension", "i32"),
    ],
    "Blocks": [("scales", "i32"), ("zero_points", "i32"), ("size", "i32"), ("shape", "[i32]")],
    "Operator": [
        ("code", "u32"), ("inputs", "[i32]"), ("outputs", "[i32]"), ("options", "<options>"), ("custom", "{u8}"),
        ("custom_format", "i8"), ("mutating", "[bool]"), ("intermediates", "[i32]"), ("large_offset", "u64"),
        ("large_size", "u64"), ("more_options", "<more_options>"),
    ],
    "Buffer": [("data", "{u8}"), ("offset", "u64"), ("size", "u64")],
    "Signature": [
        ("inputs", "[Map]"), ("outputs", "[Map]"), ("key", "text"), ("deprecated", "text"), ("graph", "u32"),
    ],
    "Map": [("name", "text"), ("tensor", "u32")],
    "Empty": [],
    **dict.fromkeys(
        ("Pad", "Transpose", "Slice", "Quantize", "Dequantize", "DynamicUpdateSlice", "Less", "Maximum"), ()
    ),
    # What operators are told.
    "FullyConnected": [
        ("activation", "i8"), ("format", "i8"), ("keep_dims", "bool"), ("asymmetric", "bool"), ("bias_type", "i8"),
    ],
    "Softmax": [("beta", "f32")],
    "Concatenation": [("axis", "i32"), ("activation", "i8")],
    "Add": [("activation", "i8"), ("pot_scale", "bool")],
    "Mul": [("activation", "i8")],
    "Sub": [("activation", "i8"), ("pot_scale", "bool")],
    "Reshape": [("shape", "[i32]")],
    "Reducer": [("keep_dims", "bool")],
    "BatchMatMul": [("left_transposed", "bool"), ("right_transposed", "bool"), ("asymmetric", "bool")],
    "Cast": [("from", "i8"), ("to", "i8")],
    "Gelu": [("approximate", "bool")],
    "Gather": [("axis", "i32"), ("batch_dims", "i32")],
    "Composite": [
        ("name", "text"), ("graph", "i32"), ("attributes", "{u8}"), ("attributes_format", "i8"), ("version", "i32"),
    ],
}  # fmt: skip
#: Of quantizations' details and operators' options, those that exports write.
UNIONS: Final[Unions] = {
    "details": {0: "Empty", 2: "Blocks"},
    "more_options": {0: "Empty", 21: "Composite"},
    "options": {
        0: "Empty", 8: "FullyConnected", 9: "Softmax", 10: "Concatenation", 11: "Add", 17: "Reshape", 21: "Mul",
        22: "Pad", 23: "Gather", 26: "Transpose", 27: "Reducer", 28: "Sub", 37: "Cast", 38: "Dequantize",
        39: "Maximum", 41: "Less", 48: "Slice", 89: "Quantize",
        101: "BatchMatMul", 116: "Gelu", 117: "DynamicUpdateSlice",
    },
}  # fmt: skip
