"""Both sides of a comparison: the bundle in the runtime, the checkpoint in PyTorch; their scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pocketvlm.fidelity.divergence import (
    ImageScores,
    SquaredError,
    TokenScores,
    report_images,
    report_logits,
    score_images,
    score_tokens,
    squared_error,
)
from pocketvlm.images.packing import pack
from pocketvlm.images.prepare import normalize, preprocessing_of
from pocketvlm.runtime.vision import packed_of

if TYPE_CHECKING:
    from torch import Tensor

    from pocketvlm.bench.accuracy.teacher_forced import TeacherForced
    from pocketvlm.export.read.sample import Sample
    from pocketvlm.fidelity.groups import Group
    from pocketvlm.fidelity.trace import Trace
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.runtime import PocketVlm

Floats = npt.NDArray[np.float32]


class Compared:
    """Runs groups of questions through both sides and keeps their scores, never their logits.

    ``progress`` is told of each question's way through a layer of the original.
    """

    def __init__(self, vlm: PocketVlm, checkpoint: Checkpoint, trace: Trace, progress: Callable[[int], None]) -> None:
        self._vlm, self._checkpoint, self._trace, self._progress = vlm, checkpoint, trace, progress
        vision = checkpoint.config.vision
        self._vision = [SquaredError()] * (0 if vision is None else vision.num_hidden_layers)
        self._text = [SquaredError()] * checkpoint.config.text.num_hidden_layers
        self._all = list(self._text)
        self._tokens: list[TokenScores] = []
        self._images: list[ImageScores] = []
        self.titles: list[str] = []
        self.traced = 0

    def add(self, group: Group) -> None:
        """Run a group and score it."""
        samples = [self._sample(item) for item in group.items]
        shipped = [self._vlm.encode_images(item.pictures) if item.pictures else None for item in group.items]
        wanted = self._encode(group, samples, shipped)
        streams = self._decode(group, samples, shipped, wanted)
        for item, stream in zip(group.items, streams, strict=True):
            self._tokens.append(self._score(item, stream))
            self.titles.append(item.title)
            self._progress(1)
        self.traced += group.traced

    def report(self) -> dict[str, Any]:
        """The section ``fidelity`` of a report."""
        images = report_images(self._images)
        # Layers are compared for the first questions: of those there may be none with an image.
        seen = any(error.wanted for error in self._vision)
        decoder = zip(self._text, self._all, strict=True)
        return {
            "logits": asdict(report_logits(self._tokens)),
            "image_tokens": None if images is None else asdict(images),
            "layers": {
                "questions": self.traced,
                "decoder": [
                    {"layer": layer, "text": text.relative, "all": every.relative}
                    for layer, (text, every) in enumerate(decoder)
                ],
                "vision": [{"layer": layer, "all": error.relative} for layer, error in enumerate(self._vision)]
                if seen
                else None,
            },
        }

    def by_question(self) -> list[dict[str, Any]]:
        """Each question's means over its scored tokens."""
        return [
            {
                "question": title,
                "tokens": len(scores.kl),
                "kl_mean": float(scores.kl.mean()),
                "top1_agreement": float(scores.agrees.mean()),
                "original_loss": float(scores.original_loss.mean()),
                "bundle_loss": float(scores.bundle_loss.mean()),
            }
            for title, scores in zip(self.titles, self._tokens, strict=True)
        ]

    def _sample(self, item: TeacherForced) -> Sample:
        """The tokens and pixels that the runtime feeds."""
        import torch

        from pocketvlm.export.read.sample import Sample

        manifest, pixels, grids = self._vlm.manifest, None, None
        if manifest.vision is not None and item.pictures:
            preprocessing = preprocessing_of(manifest.vision)
            tiles = [normalize(picture.tiled.pixels, preprocessing) for picture in item.pictures]
            pixels = torch.from_numpy(np.concatenate(tiles))
            if manifest.vision.patches is not None:
                grids = tuple(grid for picture in item.pictures for grid in picture.tiled.seen)
        ids, has_axes = torch.from_numpy(item.inputs), manifest.positions is not None
        return Sample(pixels, ids, manifest.tokens.image, item.first_scored, grids, has_axes, manifest.spans)

    def _encode(self, group: Group, samples: list[Sample], shipped: list[Floats | None]) -> list[Tensor | None]:
        """The original's image tokens; both sides' are scored on the way."""
        from pocketvlm.export.reference.stages import encode_tiles

        traces = [
            None if sample.pixels is None else self._trace.vision(sample.pixels.numpy(), sample.grids)
            for sample in samples[: group.traced]
        ]

        def look(layer: int, place: int, patches: Tensor) -> None:
            found = traces[place] if place < group.traced else None
            if found is not None:
                self._vision[layer] += squared_error(found[layer], patches.numpy())
            self._progress(1)

        wanted = encode_tiles(
            self._checkpoint.config,
            self._checkpoint.tensor,
            [sample.pixels for sample in samples],
            look,
            grids=[sample.grids for sample in samples],
        )
        wanted = [self._packed(item, tokens) for item, tokens in zip(group.items, wanted, strict=True)]
        for found, tokens in zip(shipped, wanted, strict=True):
            if found is not None and tokens is not None:
                # [tiles, tokens per tile, hidden] -> [image tokens, hidden]
                self._images.append(score_images(found, tokens.flatten(0, 1).numpy()))
        return wanted

    def _packed(self, item: TeacherForced, tokens: Tensor | None) -> Tensor | None:
        """[tiles, tokens per tile, hidden] -> where pictures are packed, theirs: [1, image tokens, hidden]"""
        import torch

        from pocketvlm.models.stages import newline

        vision = self._vlm.manifest.vision
        if tokens is None or vision is None or vision.packing is None:
            return tokens
        row_end, found, first = newline(self._checkpoint.config, self._checkpoint.tensor).numpy(), [], 0
        for picture in item.pictures:
            of_picture = tokens[first : first + len(picture.tiled.pixels)].flatten(0, 1).numpy()
            first, plan = first + len(picture.tiled.pixels), packed_of(picture, vision)
            found.append(of_picture if plan is None else pack(of_picture, plan, row_end))
        # [image tokens, hidden] -> [1, image tokens, hidden]
        return torch.from_numpy(np.concatenate(found))[None]

    def _decode(
        self, group: Group, samples: list[Sample], shipped: list[Floats | None], wanted: list[Tensor | None]
    ) -> list[Tensor]:
        """The original's last residual streams; the layers of traced questions are compared on the way."""
        from pocketvlm.export.reference.stages import enter_decoder, run_decoder

        config, read = self._checkpoint.config, self._checkpoint.tensor
        items = list(zip(samples, shipped, strict=True))[: group.traced]
        traces = [
            self._trace.text(sample.token_ids.numpy(), tokens, sample.positions.numpy(), asked=sample.first_scored + 1)
            for sample, tokens in items
        ]
        placeholder = -1 if self._vlm.manifest.tokens.image is None else self._vlm.manifest.tokens.image
        is_text = [item.inputs != placeholder for item in group.items]

        def look(layer: int, place: int, hidden: Tensor) -> None:
            if place < group.traced:
                found, exact, here = traces[place][layer], hidden[0].numpy(), is_text[place]
                self._text[layer] += squared_error(found[here], exact[here])
                self._all[layer] += squared_error(found, exact)
            self._progress(1)

        return run_decoder(config, read, enter_decoder(config, read, samples, wanted), look, samples=samples)

    def _score(self, item: TeacherForced, stream: Tensor) -> TokenScores:
        from pocketvlm.models.stages import logits

        scored, checkpoint = slice(item.first_scored, None), self._checkpoint
        exact = logits(checkpoint.config.text, checkpoint.tensor, stream[:, scored]).numpy()
        shipped = self._vlm.logits(item.inputs, item.pictures, asked=item.first_scored + 1)
        return score_tokens(exact, shipped[scored], item.targets)
