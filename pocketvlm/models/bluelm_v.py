"""A whole model in PyTorch, as BlueLM-V has it (arXiv 2411.10640): SigLIP tower, connector, decoder."""

from __future__ import annotations

from torch import Tensor, nn

from pocketvlm.models.blocks.decoder import Decoder, logits_cap
from pocketvlm.models.blocks.projector import connector
from pocketvlm.models.blocks.vision import VisionTower
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.operators import Linear


class BluelmV(nn.Module):
    """The whole model. A text-only config has no vision modules."""

    def __init__(self, config: VlmConfig) -> None:
        super().__init__()
        self.config = config
        if config.vision is not None:
            self.vision_tower = VisionTower(config.vision)
            parts = connector(config)
            self.parts = tuple(parts)
            for name, part in parts.items():
                self.add_module(name, part)
        self.model = Decoder(config.text)
        self.lm_head = Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.softcap = logits_cap(config.text)
        if config.text.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def encode_tiles(self, pixels: Tensor) -> Tensor:
        """float [tiles, 3, size, size] -> image tokens [tiles, tokens per tile, hidden]"""
        return self.connect(self.vision_tower(pixels))

    def connect(self, tokens: Tensor) -> Tensor:
        """The tower's [tiles, patches, width] -> image tokens [tiles, tokens per tile, hidden]"""
        for name in self.parts:
            tokens = self.get_submodule(name)(tokens)
        return tokens

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """int64 [batch, tokens] -> [batch, tokens, hidden]"""
        return self.model.embed(token_ids)

    def decoder(self, embeddings: Tensor) -> Tensor:
        """[batch, tokens, hidden] from position 0 on -> normalized hidden states [batch, tokens, hidden]"""
        hidden: Tensor = self.model(embeddings)
        return hidden

    def forward(self, embeddings: Tensor) -> Tensor:
        """[batch, tokens, hidden] -> logits [batch, tokens, vocabulary]"""
        logits: Tensor = self.lm_head(self.decoder(embeddings))
        return logits if self.softcap is None else self.softcap(logits)
