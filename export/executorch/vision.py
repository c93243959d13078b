"""The vision part of an ExecuTorch program: one tile of pixels in, its image tokens out."""

from __future__ import annotations

import math

from pocketvlm.export.executorch.program import Method, Program, Slot
from pocketvlm.export.executorch.weights import Weights
from pocketvlm.export.executorch.xnnpack import Value, XnnpackGraph
from pocketvlm.models.config import VisionConfig, VlmConfig

TOWER, PROJECTOR = "vision_tower.", "projector."


class VisionBuilder:
    """Adds the vision methods to a program.

    ``vision_encoder`` is what ExecuTorch's runners call; its halves are methods of their own, so that a runtime can
    embed the next tile's patches while this one's are encoded.
    """

    def __init__(self, program: Program, weights: Weights, config: VlmConfig) -> None:
        assert config.vision is not None
        self._program, self._weights, self._config, self._vision = program, weights, config, config.vision
        side = config.vision.image_size
        self._pixels = [1, 3, side, side]
        self._patches = [1, config.vision.grid_size**2, config.vision.hidden_size]
        self._tokens = [1, config.tokens_per_tile, config.text.hidden_size]

    def methods(self) -> None:
        """vision_encoder: float32 [1, 3, tile, tile] -> [1, tokens, hidden]; and its halves"""
        embedding, encoding = self._patch_graph(), self._program.add_graph(self._encoder_graph().serialized())
        whole = Method(self._program, "vision_encoder")
        pixels = whole.take(_static(whole, self._pixels))
        patches, tokens = _static(whole, self._patches), _static(whole, self._tokens)
        whole.delegate(embedding, pixels, patches)
        whole.delegate(encoding, patches, tokens)
        whole.give(tokens)
        self._program.add_method(whole)
        self._method("patch_embedding", embedding, self._pixels, self._patches)
        self._method("image_tokens", encoding, self._patches, self._tokens)

    def patch_embedding(self) -> None:
        self._method("patch_embedding", self._patch_graph(), self._pixels, self._patches)

    def layer(self, index: int) -> None:
        """The method "layer": patches [1, patches, width] -> the same after one layer."""
        graph = XnnpackGraph(self._program.constants)
        hidden = self._flat(graph, graph.input(self._patches))
        hidden = self._layer(graph, index, hidden)
        graph.output(graph.reshape(hidden, self._patches))
        self._method("layer", self._program.add_graph(graph.serialized()), self._patches, self._patches)

    def projector(self) -> None:
        """The method "projector": what comes after the last layer."""
        graph = XnnpackGraph(self._program.constants)
        graph.output(self._project(graph, self._flat(graph, graph.input(self._patches))))
        self._method("projector", self._program.add_graph(graph.serialized()), self._patches, self._tokens)

    def _method(self, name: str, graph: int, taken: list[int], given: list[int]) -> None:
        method = Method(self._program, name)
        values = method.take(_static(method, taken))
        output = _static(method, given)
        method.delegate(graph, values, output)
        method.give(output)
        self._program.add_method(method)

    def _patch_graph(self) -> int:
        """A convolution whose stride is its kernel's side: each patch times one matrix."""
        config, prefix = self._vision, f"{TOWER}embeddings."
        graph = XnnpackGraph(self._program.constants)
        size, grid = config.patch_size, config.grid_size
        pixels = graph.input(self._pixels)
        # [1, 3, tile, tile] -> [3, tile, tile], and without what is beyond the last whole patch
        pixels = graph.reshape(pixels, self._pixels[1:])
        if grid * size != config.image_size:
            pixels = graph.slice(graph.slice(pixels, 1, 0, grid * size), 2, 0, grid * size)
        # [3, grid * size, grid * size] -> [3, grid, size, grid, size] -> [grid, grid, 3, size, size]
        patches = graph.transpose(graph.reshape(pixels, [3, grid, size, grid, size]), [1, 3, 0, 2, 4])
        patches = graph.reshape(patches, [grid * grid, 3 * size * size])
        name = f"{prefix}patch_embedding.weight"
        # [width, 3, size, size] -> [width, 3 * size * size]
        kernel = self._weights.vector(name).reshape(config.hidden_size, -1)
        embedded = graph.linear(name, patches, kernel, self._weights.vector(f"{prefix}patch_embedding.bias"))
        name = f"{prefix}position_embedding.weight"
        embedded = graph.add(embedded, graph.constant(name, self._weights.vector(name)))
        graph.output(graph.reshape(embedded, self._patches))
        return self._program.add_graph(graph.serialized())

    def _encoder_graph(self) -> XnnpackGraph:
        graph = XnnpackGraph(self._program.constants)
        hidden = self._flat(graph, graph.input(self._patches))
        for index in range(self._vision.num_hidden_layers):
            hidden = self._layer(graph, index, hidden)
        graph.output(self._project(graph, hidden))
        return graph

    def _flat(self, graph: XnnpackGraph, patches: Value) -> Value:
        return graph.reshape(patches, self._patches[1:])  # [1, patches, width] -> [patches, width]

    def _layer(self, graph: XnnpackGraph, index: int, hidden: Value) -> Value:
        """[patches, width] -> [patches, width]"""
        config, prefix = self._vision, f"{TOWER}encoder.layers.{index}"
        normed = self._norm(graph, config, f"{prefix}.layer_norm1", hidden)
        mixed = self._attend(graph, prefix, normed)
        hidden = graph.add(hidden, self._linear(graph, f"{prefix}.self_attn.out_proj", mixed))
        normed = self._norm(graph, config, f"{prefix}.layer_norm2", hidden)
        approximate = "tanh" if config.hidden_act == "gelu_pytorch_tanh" else "none"
        activated = graph.gelu(self._linear(graph, f"{prefix}.mlp.fc1", normed), approximate)
        return graph.add(hidden, self._linear(graph, f"{prefix}.mlp.fc2", activated))

    def _attend(self, graph: XnnpackGraph, prefix: str, normed: Value) -> Value:
        config = self._vision
        patches, heads = config.grid_size**2, config.num_attention_heads
        size = config.hidden_size // heads
        query, key, value = (
            # [patches, width] -> [patches, heads, head size] -> [heads, patches, head size]
            graph.transpose(
                graph.reshape(self._linear(graph, f"{prefix}.self_attn.{part}_proj", normed), [patches, heads, size]),
                [1, 0, 2],
            )
            for part in "qkv"
        )
        query = graph.scaled(query, 1 / math.sqrt(size))
        shares = graph.softmax(graph.matrix_product(query, key, transposed=True))
        mixed = graph.matrix_product(shares, value)
        # [heads, patches, head size] -> [patches, heads, head size] -> [patches, width]
        return graph.reshape(graph.transpose(mixed, [1, 0, 2]), [patches, config.hidden_size])

    def _project(self, graph: XnnpackGraph, hidden: Value) -> Value:
        """[patches, width] -> image tokens [1, tokens, hidden]"""
        normed = self._norm(graph, self._vision, f"{TOWER}post_layernorm", hidden)
        merged = self._linear(graph, "downsampler.linear", self._space_to_depth(graph, normed))
        projected = graph.gelu(self._linear(graph, f"{PROJECTOR}linear_1", merged), "none")
        return graph.reshape(self._linear(graph, f"{PROJECTOR}linear_2", projected), self._tokens)

    def _space_to_depth(self, graph: XnnpackGraph, tokens: Value) -> Value:
        """As ``pocketvlm.models.siglip.space_to_depth``: pad an odd grid, concatenate ratio x ratio tokens."""
        grid, width, ratio = self._vision.grid_size, self._vision.hidden_size, self._config.downsample_ratio
        padding = -grid % ratio
        side = (grid + padding) // ratio
        tokens = graph.reshape(tokens, [grid, grid, width])  # [patches, width] -> [rows, columns, width]
        if padding:
            tokens = graph.pad(tokens, [padding, padding, 0])
        # [side, ratio, side, ratio, width] -> [side, side, ratio, ratio, width]
        blocks = graph.transpose(graph.reshape(tokens, [side, ratio, side, ratio, width]), [0, 2, 1, 3, 4])
        return graph.reshape(blocks, [side * side, ratio * ratio * width])

    def _linear(self, graph: XnnpackGraph, name: str, hidden: Value) -> Value:
        weight, bias = self._weights.matrix(f"{name}.weight"), self._weights.vector(f"{name}.bias")
        return graph.linear(f"{name}.weight", hidden, weight, bias)

    def _norm(self, graph: XnnpackGraph, config: VisionConfig, name: str, hidden: Value) -> Value:
        weight, bias = self._weights.vector(f"{name}.weight"), self._weights.vector(f"{name}.bias")
        return graph.layer_norm(f"{name}.weight", hidden, weight, bias, config.layer_norm_eps)


def _static(method: Method, shape: list[int]) -> Slot:
    return method.tensor(shape, dynamic=False)
