"""The vocabulary of models: what every back end lowers, and what blocks are written with.

An operator is a small module that contains no other. It hides all reshaping, so that a block
(``pocketvlm.models.blocks``) is operators, ``+`` and ``*`` alone; ``pocketvlm.models.trace`` refuses anything else. A
back end is a table with a function an operator. A new operator is a class in one of these files, a line in
``OPERATORS`` and a function in each back end's table.
"""

from __future__ import annotations

from pocketvlm.models.operators.activations import Gelu, QuickGelu, Relu, Sigmoid, Silu, Softcap
from pocketvlm.models.operators.attention import (
    Attend,
    AttendLearned,
    AttendPicture,
    CachedAttend,
    Rotate,
    SharedAttend,
    rotate,
)
from pocketvlm.models.operators.mixing import CausalConvolution, Decay, GatedDelta, gated_delta
from pocketvlm.models.operators.norms import LayerNorm, RmsNorm
from pocketvlm.models.operators.operator import Operator
from pocketvlm.models.operators.places import DeltaCache, KvCache, LayerCache, PicturePlace, RowCache, Step, empty_cache
from pocketvlm.models.operators.products import (
    ChannelScale,
    Clip,
    Depthwise,
    KeyRows,
    Linear,
    Parameter,
    Patches,
    PositionRows,
    RowBehind,
    Scale,
)
from pocketvlm.models.operators.tokens import (
    Blocks,
    Channels,
    ClassToken,
    DropFirst,
    Join,
    MeanOfBlocks,
    MeanOfRows,
    Regroup,
    space_to_depth,
)

__all__ = [
    "OPERATORS",
    "Attend",
    "AttendLearned",
    "AttendPicture",
    "Blocks",
    "CachedAttend",
    "CausalConvolution",
    "ChannelScale",
    "Channels",
    "ClassToken",
    "Clip",
    "Decay",
    "DeltaCache",
    "Depthwise",
    "DropFirst",
    "GatedDelta",
    "Gelu",
    "Join",
    "KeyRows",
    "KvCache",
    "LayerCache",
    "LayerNorm",
    "Linear",
    "MeanOfBlocks",
    "MeanOfRows",
    "Operator",
    "Parameter",
    "Patches",
    "PicturePlace",
    "PositionRows",
    "QuickGelu",
    "Regroup",
    "Relu",
    "RmsNorm",
    "Rotate",
    "RowBehind",
    "RowCache",
    "Scale",
    "SharedAttend",
    "Sigmoid",
    "Silu",
    "Softcap",
    "Step",
    "empty_cache",
    "gated_delta",
    "rotate",
    "space_to_depth",
]

OPERATORS: tuple[type[Operator], ...] = (
    Linear,
    Patches,
    Depthwise,
    Parameter,
    PositionRows,
    KeyRows,
    ChannelScale,
    Clip,
    RowBehind,
    Scale,
    LayerNorm,
    RmsNorm,
    Gelu,
    QuickGelu,
    Silu,
    Relu,
    Sigmoid,
    Softcap,
    Attend,
    AttendPicture,
    AttendLearned,
    Rotate,
    CachedAttend,
    SharedAttend,
    CausalConvolution,
    Decay,
    GatedDelta,
    ClassToken,
    DropFirst,
    MeanOfRows,
    MeanOfBlocks,
    Channels,
    Regroup,
    Join,
    Blocks,
)
