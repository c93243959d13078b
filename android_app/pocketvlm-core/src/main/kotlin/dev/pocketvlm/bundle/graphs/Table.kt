package dev.pocketvlm.bundle.graphs

/** pocketvlm/bundle/graphs/grammar.json, to the byte: python -m tests.android.grammar */
internal const val TABLE: String = """{
 "limits": {"fields": 524288, "name": 512, "rank": 8, "size": 2147483647, "nodes": 32768, "ints": 64, "alignment": 64, "value_bits": 17179869184, "live_bits": 34359738368, "folded_bits": 134217728, "folded_by_stored": 8, "work": 8589934592, "work_by_weight": 4, "work_by_number": 16},
 "ir_versions": [10, 12],
 "opsets": {"": [21, 24], "com.microsoft": [1]},
 "types": {"float32": [1, 32], "uint8": [2, 8], "int8": [3, 8], "uint16": [4, 16], "int16": [5, 16], "int32": [6, 32], "int64": [7, 64], "bool": [9, 8], "float64": [11, 64], "uint4": [21, 4], "int4": [22, 4]},
 "messages": {
  "Model": {"1": ["ir_version", "int"], "2": ["producer", "text"], "7": ["graph", "Graph"], "8": ["opsets", "*Opset"]},
  "Opset": {"1": ["domain", "text"], "2": ["version", "int"]},
  "Graph": {"1": ["nodes", "*Node"], "2": ["name", "text"], "5": ["initializers", "*Tensor"], "11": ["inputs", "*Value"], "12": ["outputs", "*Value"], "13": ["values", "*Value"]},
  "Branch": {"1": ["nodes", "*Node"], "2": ["name", "text"], "12": ["outputs", "*Value"]},
  "Node": {"1": ["inputs", "*text"], "2": ["outputs", "*text"], "3": ["name", "text"], "4": ["operator", "text"], "5": ["attributes", "*Attribute"], "7": ["domain", "text"]},
  "Attribute": {"1": ["name", "text"], "2": ["f", "float"], "3": ["i", "int"], "4": ["s", "text"], "6": ["g", "Branch"], "8": ["ints", "*int"], "20": ["type", "int"]},
  "Tensor": {"1": ["dims", "*int"], "2": ["dtype", "int"], "8": ["name", "text"], "9": ["raw", "bytes"], "13": ["external", "*Entry"], "14": ["location", "int"]},
  "Entry": {"1": ["key", "text"], "2": ["value", "text"]},
  "Value": {"1": ["name", "text"], "2": ["type", "Type"]},
  "Type": {"1": ["tensor", "TensorType"]},
  "TensorType": {"1": ["dtype", "int"], "2": ["shape", "Shape"]},
  "Shape": {"1": ["dims", "*Dim"]},
  "Dim": {"1": ["size", "int"], "2": ["name", "text"]}
 },
 "operators": {
  "Abs": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "Add": {"forms": [
   {"inputs": ["T", "T"], "outputs": ["T"], "rule": "broadcast", "types": ["float32", "float64", "int64", "int16"]}
  ]},
  "And": {"forms": [
   {"inputs": ["bool[R C]", "bool[R C]"], "outputs": ["bool[R C]"]}
  ]},
  "Attention": {"forms": [
   {"attributes": {"scale": "positive"}, "inputs": ["float32[B H S D]", "float32[B K L D]", "float32[B K L D]", "bool[M L]"], "outputs": ["float32[B H S D]"], "rule": "scores", "times": ["L"]},
   {"attributes": {"scale": "positive", "softcap": "positive"}, "inputs": ["float32[B H S D]", "float32[B K L D]", "float32[B K L D]", "bool[M L]"], "outputs": ["float32[B H S D]"], "rule": "scores", "times": ["L"]}
  ]},
  "Cast": {"forms": [
   {"attributes": {"to": [1, 2, 5, 6, 7, 11]}, "inputs": ["T[*]"], "outputs": ["@to[*]"], "types": ["float32", "float64", "int64", "int32", "int16", "int8", "uint4"]}
  ]},
  "Concat": {"forms": [
   {"attributes": {"axis": [-2, 1, 2, 3]}, "inputs": ["T", "T"], "outputs": ["T"], "rule": "joined", "types": ["float32", "int16", "int8"]}
  ]},
  "Conv": {"forms": [
   {"attributes": {"kernel_shape": "sizes", "strides": "sizes"}, "inputs": ["float32[T C H W]", "float32[O C P Q]", "?float32[O]"], "outputs": ["float32"], "rule": "patches", "times": ["C", "P", "Q"]},
   {"attributes": {"kernel_shape": "sizes", "strides": "sizes", "pads": "sizes", "group": "size"}, "inputs": ["float32[T C H W]", "float32[O I P Q]", "float32[O]"], "outputs": ["float32"], "rule": "convolved", "times": ["I", "P", "Q"]}
  ]},
  "DequantizeLinear": {"forms": [
   {"inputs": ["T[*]", "float32."], "outputs": ["float32[*]"], "types": ["int8", "int16"]},
   {"inputs": ["T[*]", "float32[]", "T[]"], "outputs": ["float32[*]"], "types": ["uint16", "int8"]},
   {"attributes": {"axis": [1]}, "inputs": ["T[K N]", "float32[N]", "T[N]"], "outputs": ["float32[K N]"], "types": ["int4", "int8", "uint8"]},
   {"attributes": {"axis": [0], "block_size": [32, 64, 128]}, "inputs": ["int4[K N]", "float32[G N]", "int4[G N]"], "outputs": ["float32[K N]"], "rule": "column_blocks"}
  ]},
  "Div": {"forms": [
   {"inputs": ["T", "T"], "outputs": ["T"], "rule": "broadcast", "types": ["float32"]}
  ]},
  "Exp": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "Floor": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "Gather": {"forms": [
   {"attributes": {"axis": [0]}, "inputs": ["T[V D]", "int64[* S]"], "outputs": ["T[* S D]"], "types": ["float32"]},
   {"attributes": {"axis": [0]}, "inputs": ["int64[V]", "int64[]"], "outputs": ["int64[]"], "rule": "element"}
  ]},
  "GatherBlockQuantized": {"domain": "com.microsoft", "forms": [
   {"attributes": {"bits": [4, 8], "block_size": [16, 32, 64, 128, 256], "gather_axis": [0], "quantize_axis": [1]}, "inputs": ["uint8[V P]", "int64[* S]", "float32[V G]", "?uint8[V Z]"], "outputs": ["float32[* S C]"], "rule": "rows_of_blocks"}
  ]},
  "Gelu": {"forms": [
   {"attributes": {"approximate": ["none", "tanh"]}, "inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "Greater": {"forms": [
   {"inputs": ["int64[]", "int64[]"], "outputs": ["bool[]"]}
  ]},
  "GroupQueryAttention": {"domain": "com.microsoft", "forms": [
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1]}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["float32"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1], "local_window_size": "size"}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["float32"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [0]}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "-", "-"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["float32"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1], "k_quant_type": ["PER_TENSOR"], "v_quant_type": ["PER_TENSOR"], "kv_cache_bit_width": [8]}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]", "-", "-", "-", "float32[1]", "float32[1]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["int8"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1], "k_quant_type": ["PER_CHANNEL"], "v_quant_type": ["PER_CHANNEL"], "kv_cache_bit_width": [8]}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]", "-", "-", "-", "float32[W]", "float32[W]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["int8"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1], "local_window_size": "size", "k_quant_type": ["PER_CHANNEL"], "v_quant_type": ["PER_CHANNEL"], "kv_cache_bit_width": [8]}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]", "-", "-", "-", "float32[W]", "float32[W]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["int8"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [0], "k_quant_type": ["PER_CHANNEL"], "v_quant_type": ["PER_CHANNEL"], "kv_cache_bit_width": [8]}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "-", "-", "-", "-", "-", "float32[W]", "float32[W]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["int8"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1], "softcap": "positive"}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["float32"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1], "softcap": "positive", "local_window_size": "size"}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["float32"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1], "softcap": "positive", "k_quant_type": ["PER_CHANNEL"], "v_quant_type": ["PER_CHANNEL"], "kv_cache_bit_width": [8]}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]", "-", "-", "-", "float32[W]", "float32[W]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["int8"], "times": ["L"]},
   {"attributes": {"num_heads": "size", "kv_num_heads": "size", "scale": "positive", "do_rotary": [1], "softcap": "positive", "local_window_size": "size", "k_quant_type": ["PER_CHANNEL"], "v_quant_type": ["PER_CHANNEL"], "kv_cache_bit_width": [8]}, "inputs": ["float32[1 S Q]", "float32[1 S W]", "float32[1 S W]", "T[1 H L D]", "T[1 H L D]", "int32[1]", "int32[]", "float32[R C]", "float32[R C]", "-", "-", "-", "float32[W]", "float32[W]"], "outputs": ["float32[1 S Q]", "T[1 H L D]", "T[1 H L D]"], "rule": "grouped", "types": ["int8"], "times": ["L"]}
  ]},
  "Identity": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "If": {"forms": [
   {"attributes": {"then_branch": "branch", "else_branch": "branch"}, "inputs": ["bool[]"], "outputs": ["float32", "T", "T"], "types": ["float32", "int8"]}
  ]},
  "LayerNormalization": {"forms": [
   {"attributes": {"axis": [-1], "epsilon": "positive"}, "inputs": ["float32[* D]", "float32[D]", "float32[D]"], "outputs": ["float32[* D]"]}
  ]},
  "Less": {"forms": [
   {"inputs": ["int64[R 1]", "int64[C]"], "outputs": ["bool[R C]"]}
  ]},
  "LessOrEqual": {"forms": [
   {"inputs": ["int64[C]", "int64[R 1]"], "outputs": ["bool[R C]"]}
  ]},
  "LinearAttention": {"domain": "com.microsoft", "forms": [
   {"attributes": {"q_num_heads": "size", "kv_num_heads": "size", "update_rule": ["gated_delta"], "scale": "positive"}, "inputs": ["float32[1 S Q]", "float32[1 S Q]", "float32[1 S W]", "float32[1 H D E]", "float32[1 S H]", "float32[1 S H]"], "outputs": ["float32[1 S W]", "float32[1 H D E]"], "rule": "matrices", "times": ["D"]}
  ]},
  "MatMul": {"forms": [
   {"inputs": ["T[* K]", "T[K N]"], "outputs": ["T[* N]"], "types": ["float32"], "times": ["K"]},
   {"inputs": ["T[* R K]", "T[* K N]"], "outputs": ["T[* R N]"], "types": ["float32", "float64"], "times": ["K"]}
  ]},
  "MatMulInteger": {"forms": [
   {"inputs": ["uint8[* K]", "uint8[K N]", "uint8[]", "uint8[]"], "outputs": ["int32[* N]"], "times": ["K"]}
  ]},
  "MatMulIntegerToFloat": {"domain": "com.microsoft", "forms": [
   {"inputs": ["uint8[* K]", "int8[K N]", "float32[]", "float32[N]", "uint8[]", "int8[]"], "outputs": ["float32[* N]"], "times": ["K"]}
  ]},
  "MatMulNBits": {"domain": "com.microsoft", "forms": [
   {"attributes": {"K": "size", "N": "size", "bits": [4, 8], "block_size": [16, 32, 64, 128, 256], "accuracy_level": [4]}, "inputs": ["float32[* K]", "uint8[N G B]", "float32[N G]", "?uint8[N Z]", "-", "?float32[N]"], "outputs": ["float32[* N]"], "rule": "blocks", "times": ["K"]}
  ]},
  "Max": {"forms": [
   {"inputs": ["T", "T"], "outputs": ["T"], "rule": "broadcast", "types": ["float32"]}
  ]},
  "Min": {"forms": [
   {"inputs": ["T", "T"], "outputs": ["T"], "rule": "broadcast", "types": ["float32"]}
  ]},
  "Mul": {"forms": [
   {"inputs": ["T", "T"], "outputs": ["T"], "rule": "broadcast", "types": ["float32", "float64"]}
  ]},
  "MultiHeadAttention": {"domain": "com.microsoft", "forms": [
   {"attributes": {"num_heads": "size"}, "inputs": ["float32[B Q W]", "float32[B S W]", "float32[B S W]"], "outputs": ["float32[B Q W]"], "rule": "heads", "times": ["S"]},
   {"attributes": {"num_heads": "size"}, "inputs": ["float32[B S W]", "float32[B S W]", "float32[B S W]", "-", "int32[B S]"], "outputs": ["float32[B S W]"], "rule": "heads", "times": ["S"]}
  ]},
  "Neg": {"forms": [
   {"inputs": ["T[*]"], "outputs": ["T[*]"], "types": ["float32", "int64"]}
  ]},
  "Or": {"forms": [
   {"inputs": ["bool[]", "bool[]"], "outputs": ["bool[]"]}
  ]},
  "Pad": {"forms": [
   {"inputs": ["float32", "int64[N]"], "outputs": ["float32"], "rule": "padded"}
  ]},
  "QuantizeLinear": {"forms": [
   {"attributes": {"output_dtype": [3, 5]}, "inputs": ["float32[*]", "float32."], "outputs": ["@output_dtype[*]"]},
   {"inputs": ["float32[*]", "float32.", "T[]"], "outputs": ["T[*]"], "types": ["uint8", "uint16", "int8"]}
  ]},
  "QuickGelu": {"domain": "com.microsoft", "forms": [
   {"attributes": {"alpha": "positive"}, "inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "Range": {"forms": [
   {"inputs": ["int64[]", "int64[]", "int64[]"], "outputs": ["int64"], "rule": "counted"}
  ]},
  "Reciprocal": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "ReduceMax": {"forms": [
   {"attributes": {"keepdims": [1]}, "inputs": ["float32", "int64[1]"], "outputs": ["float32"], "rule": "reduced"}
  ]},
  "ReduceMean": {"forms": [
   {"attributes": {"keepdims": [1]}, "inputs": ["float32", "int64[1]"], "outputs": ["float32"], "rule": "reduced"}
  ]},
  "ReduceSum": {"forms": [
   {"attributes": {"keepdims": [0]}, "inputs": ["int64", "int64[1]"], "outputs": ["int64"], "rule": "reduced"}
  ]},
  "Reshape": {"forms": [
   {"inputs": ["T", "int64[N]"], "outputs": ["T"], "rule": "reshaped", "types": ["float32", "int16"]}
  ]},
  "RotaryEmbedding": {"domain": "com.microsoft", "forms": [
   {"inputs": ["float32[B S W]", "int64[1]", "float32[R C]", "float32[R C]"], "outputs": ["float32[B S W]"], "rule": "rotary"}
  ]},
  "Shape": {"forms": [
   {"attributes": {"?start": [1], "?end": [2]}, "inputs": ["float32[*]"], "outputs": ["int64"], "rule": "shape_of"},
   {"inputs": ["int64[*]"], "outputs": ["int64"], "rule": "shape_of"}
  ]},
  "Sigmoid": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "SimplifiedLayerNormalization": {"forms": [
   {"attributes": {"axis": [-1], "epsilon": "positive", "stash_type": [1]}, "inputs": ["float32[* D]", "float32[D]"], "outputs": ["float32[* D]"]}
  ]},
  "SkipSimplifiedLayerNormalization": {"domain": "com.microsoft", "forms": [
   {"attributes": {"epsilon": "positive"}, "inputs": ["float32[* D]", "float32[* D]", "float32[D]"], "outputs": ["float32[* D]", "float32[* 1]", "float32[* 1]", "float32[* D]"]}
  ]},
  "Slice": {"forms": [
   {"inputs": ["T", "int64[1]", "int64[1]", "int64[1]"], "outputs": ["T"], "rule": "sliced", "types": ["float32", "int16", "int8", "uint8"]},
   {"inputs": ["int64[C]", "int64[1]", "int64[1]"], "outputs": ["int64"], "rule": "sliced"}
  ]},
  "Softmax": {"forms": [
   {"attributes": {"axis": [-1]}, "inputs": ["T[* D]"], "outputs": ["T[* D]"], "types": ["float32", "float64"]}
  ]},
  "Softplus": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "Split": {"forms": [
   {"attributes": {"axis": [-2], "num_outputs": [2]}, "inputs": ["float64[* R N]"], "outputs": ["float64", "float64"], "rule": "halves"}
  ]},
  "Sqrt": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "Sub": {"forms": [
   {"inputs": ["T", "T"], "outputs": ["T"], "rule": "broadcast", "types": ["float32", "float64", "int64"]}
  ]},
  "Tanh": {"forms": [
   {"inputs": ["float32[*]"], "outputs": ["float32[*]"]}
  ]},
  "TensorScatter": {"forms": [
   {"attributes": {"axis": [2]}, "inputs": ["T[B H L D]", "T[B H S D]", "int64[1]"], "outputs": ["T[B H L D]"], "types": ["float32", "int8"]},
   {"attributes": {"axis": [1]}, "inputs": ["float32[B L D]", "float32[B S D]", "int64[1]"], "outputs": ["float32[B L D]"]}
  ]},
  "Transpose": {"forms": [
   {"attributes": {"perm": "sizes"}, "inputs": ["T"], "outputs": ["T"], "rule": "transposed", "types": ["float32", "int16", "int8", "uint8"]}
  ]},
  "Unsqueeze": {"forms": [
   {"inputs": ["int64[N]", "int64[1]"], "outputs": ["int64[N 1]"], "rule": "last_axis"}
  ]}
 }
}
"""
