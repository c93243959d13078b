"""What the tiny checkpoints of families that see share: model, processor and tokenizer of transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

ENGINES = ("onnx", "executorch", "litert")
#: Two layers, grouped-query attention, heads of 32 (ONNX Runtime wants multiples of 16).
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 352,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 1024,
}
TOWER: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 136,
}
#: What a tokenizer makes one token of: where a layout cuts one of them in two, its ids are wrong.
MERGES = (("Ċ", "Ċ"), ("Ġ", "t"), ("h", "e"), ("Ġt", "he"), (":", "Ġ"), ("Ċ", "Ġ"))


@dataclass(frozen=True)
class Written:
    """A checkpoint, the model that it holds in float32, and its processor. ``tile``: pixels of a tile's side.

    ``unused``: weights that are stored and that nothing runs; ``split``: weights more than are stored, where several
    lie in one. ``one_by_one``: the processor is given pictures so that each is cut as it is alone, which is not its own
    way for several. ``has_system``: its template writes a system message as it writes its own. ``single_turn``: it has
    no template and answers one question, images first. ``engines``: what it is exported for; the others refuse the
    family.
    """

    directory: Path
    model: Any
    processor: Any
    tile: int
    unused: int = 0
    split: int = 0
    one_by_one: bool = False
    has_system: bool = True
    single_turn: bool = False
    engines: tuple[str, ...] = ENGINES

    @property
    def is_native(self) -> bool:
        """Whether pictures go through the tower as a whole."""
        return "image_grid_thw" in self.processor.image_processor.model_input_names

    @property
    def is_in_parts(self) -> bool:
        """Whether pictures go through the tower part by part."""
        return "spatial_shapes" in self.processor.image_processor.model_input_names

    @property
    def is_sliced(self) -> bool:
        """Whether pictures go through the tower slice by slice, of any size, whose patches are given one by one."""
        return "target_sizes" in self.processor.image_processor.model_input_names

    @property
    def is_in_blocks(self) -> bool:
        """Whether pictures go through the tower as a whole, their patches given row by row and from 0 to 1."""
        return "image_position_ids" in self.processor.image_processor.model_input_names

    def as_given(self, planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Our numbers as its processor gives them: where the model's own code makes them -1 to 1, from 0 to 1."""
        return np.asarray((planes + 1) / 2, np.float32) if self.is_in_blocks else planes

    def parts(self, processed: Any) -> list[list[int]] | None:
        """Of each part of a picture its tiles, [across, down]; None where there are none."""
        if self.is_sliced:  # of a tile a quarter each way: in patches, or in quarters of one
            sizes, ratio = processed["target_sizes"], 4
        elif self.is_in_parts:
            sizes, ratio = processed["spatial_shapes"], self.tile // self.processor.image_processor.encoder_patch_size
        else:
            return None
        found: list[list[int]] = (np.asarray(sizes)[:, ::-1] // ratio).tolist()
        return found

    def planes(self, processed: Any) -> npt.NDArray[np.float32]:
        """What its image processor gives as float32 [tiles or patches, 3, height, width]."""
        found = np.asarray(processed["pixel_values"])
        if self.is_sliced:
            return self._slices(found[0], np.asarray(processed["target_sizes"]).tolist())
        if self.is_in_parts:
            shapes = np.asarray(processed["spatial_shapes"]).tolist()
            return np.concatenate([self._blocks(part, *shape) for part, shape in zip(found, shapes, strict=True)])
        if self.is_in_blocks:
            columns, rows = (np.asarray(processed["image_position_ids"])[0].max(axis=0) + 1).tolist()
            return in_patches(self._blocks(found[0], rows, columns), self.processor.image_processor.pooling_kernel_size)
        if not self.is_native:
            # [pictures, tiles, 3, tile, tile] -> [tiles, 3, tile, tile]
            return found.reshape(-1, 3, self.tile, self.tile)
        patch = self.processor.image_processor.patch_size
        # [patches, 3 * 2 * patch * patch], of which the two moments of a film are alike
        return found.reshape(-1, 3, 2 * patch, patch)

    def _slices(self, found: npt.NDArray[np.float32], sizes: list[list[int]]) -> npt.NDArray[np.float32]:
        """[3, patch, patches * patch] -> [tiles, 3, tile, tile]"""
        patch = found.shape[1]
        patches = found.reshape(3, patch, -1, patch)
        if patch == self.tile:
            # [3, patch, patches, patch] -> [patches, 3, patch, patch]
            return patches.transpose(2, 0, 1, 3)
        tiles, first, ratio = list[npt.NDArray[np.float32]](), 0, self.tile // patch
        for rows, columns in sizes:
            part = patches[:, :, first : first + rows * columns]
            first += rows * columns
            # [3, patch, rows * columns, patch] -> [3, patch, down, ratio, across, ratio, patch]
            cut = part.reshape(3, patch, rows // ratio, ratio, columns // ratio, ratio, patch)
            # -> [down, across, 3, ratio, patch, ratio, patch] -> [tiles, 3, tile, tile]
            tiles.append(cut.transpose(2, 4, 0, 3, 1, 5, 6).reshape(-1, 3, self.tile, self.tile))
        return np.concatenate(tiles)

    def _blocks(self, part: npt.NDArray[np.float32], rows: int, columns: int) -> npt.NDArray[np.float32]:
        """[patches and padding, patch * patch * 3] -> [tiles, 3, tile, tile]"""
        of = self.processor.image_processor
        patch = of.patch_size if self.is_in_blocks else of.encoder_patch_size
        ratio = self.tile // patch
        down, across = rows // ratio, columns // ratio
        cut = part[: rows * columns].reshape(down, ratio, across, ratio, patch, patch, 3)
        # [down, ratio, across, ratio, patch, patch, 3] -> [down, across, 3, ratio, patch, ratio, patch]
        return cut.transpose(0, 2, 6, 1, 4, 3, 5).reshape(down * across, 3, self.tile, self.tile)


def byte_level(specials: Sequence[str]) -> Tokenizer:
    """Byte-level BPE with a few merges, as GPT-2's and its heirs'."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


def randomized(model: Any, spread: float) -> Any:
    """Norms and biases away from ones and zeros, so that one that is left out shows. ``spread``: of what a layer makes
    of its input; it has to outweigh a tied table, or each token would predict itself."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                own = 0.1 if "embed_tokens" in name else spread / parameter[0].numel() ** 0.5
                parameter.copy_(torch.randn_like(parameter) * own)
    return model.eval()


def in_patches(tiles: npt.NDArray[np.float32], ratio: int) -> npt.NDArray[np.float32]:
    """float32 [tiles, 3, tile, tile] -> [patches, 3, 2 * patch, patch]: each patch twice, one below the other."""
    patch = tiles.shape[-1] // ratio
    # [tiles, 3, ratio, patch, ratio, patch] -> [tiles, ratio, ratio, 3, patch, patch] -> [patches, 3, patch, patch]
    cut = tiles.reshape(-1, 3, ratio, patch, ratio, patch).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3, patch, patch)
    return np.concatenate([cut, cut], axis=2)
