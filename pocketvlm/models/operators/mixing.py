"""What stands in place of attention: convolutions over tokens, and states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvlm.models.operators.operator import Operator
from pocketvlm.models.operators.places import DeltaCache, RowCache, Step


class CausalConvolution(Operator):
    """Of each channel its last ``kernel`` rows times a factor each, summed: over a layer's rows, which it extends and
    before whose first there are zeros. [batch, tokens, width] -> the same shape. ``of_state``: the rows are a part of
    the layer's state, which needs no more than the last of them."""

    def __init__(self, width: int, kernel: int, *, bias: bool, of_state: bool = False) -> None:
        super().__init__()
        self.width, self.kernel, self.of_state = width, kernel, of_state
        self.weight = nn.Parameter(torch.empty(width, 1, kernel))
        nn.init.normal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, rows: Tensor, step: Step) -> Tensor:
        tokens, known = rows.shape[1], rows
        if step.cache is not None:
            cache = step.cache.rows if isinstance(step.cache, DeltaCache) else step.cache
            assert isinstance(cache, RowCache)
            cache.append(rows)
            known = cache.rows
        # [batch, positions, width] -> [batch, kernel - 1 + tokens, width]
        known = F.pad(known, (0, 0, self.kernel - 1, 0))[:, -(tokens + self.kernel - 1) :]
        # -> [batch, width, kernel - 1 + tokens] -> [batch, width, tokens] -> [batch, tokens, width]
        return F.conv1d(known.transpose(1, 2), self.weight, self.bias, groups=self.width).transpose(1, 2)


class Decay(Operator):
    """How fast a head forgets, by the logarithm: [..., heads] -> -exp(weight) * softplus(x + bias), never positive."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads))
        self.bias = nn.Parameter(torch.zeros(heads))

    def forward(self, values: Tensor) -> Tensor:
        return -self.weight.exp() * F.softplus(values + self.bias)


class GatedDelta(Operator):
    """The gated delta rule (arXiv 2412.06464) over a layer's state, which it replaces.

    query, key [batch, tokens, key heads * key width], whose heads are made of length 1 here; value [batch, tokens,
    heads * value width]; decay (a logarithm) and rate [batch, tokens, heads] -> [batch, tokens, heads * value width].
    Each key head serves so many value heads that follow one another. A head's matrix S becomes, token by token,
    exp(decay) S + rate * key (value - exp(decay) S^T key)^T, and S^T query by the root of the key width is given.
    """

    #: Under the root of the sum of squares of a head.
    EPSILON = 1e-6

    def __init__(self, key_heads: int, heads: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.key_heads, self.heads, self.key_size, self.value_size = key_heads, heads, key_size, value_size

    def forward(self, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, step: Step) -> Tensor:
        # [batch, tokens, key heads * key width] -> [batch, heads, tokens, key width]
        query, key = (self._by_head(states) for states in (query, key))
        # [batch, tokens, heads * value width] -> [batch, heads, tokens, value width]
        value = value.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        # [batch, tokens, heads] -> [batch, heads, tokens]
        decay, rate = decay.transpose(1, 2), rate.transpose(1, 2)
        matrix = torch.zeros(*key.shape[:2], self.key_size, self.value_size)
        if step.cache is not None:
            assert isinstance(step.cache, DeltaCache)
            matrix = step.cache.matrix
        mixed, matrix = gated_delta(query * self.key_size**-0.5, key, value, decay, rate, matrix)
        if step.cache is not None:
            assert isinstance(step.cache, DeltaCache)
            step.cache.matrix = matrix
        # [batch, heads, tokens, value width] -> [batch, tokens, heads * value width]
        return mixed.transpose(1, 2).flatten(-2)

    def _by_head(self, states: Tensor) -> Tensor:
        heads = states.unflatten(-1, (self.key_heads, -1)).transpose(1, 2)
        heads = heads * torch.rsqrt(heads.square().sum(-1, keepdim=True) + self.EPSILON)
        return heads.repeat_interleave(self.heads // self.key_heads, dim=1)


#: Tokens whose updates of a state are solved at once.
CHUNK = 64


def gated_delta(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """The rule of ``GatedDelta`` by chunks: query, key [batch, heads, tokens, key width], value [batch, heads, tokens,
    value width], decay and rate [batch, heads, tokens] -> what it gives, and the state behind the last token.

    What the tokens of a chunk write is a triangular system, since each sees what those before it wrote (arXiv
    2412.06464, section 3.3).
    """
    mixed = []
    for start in range(0, query.shape[2], CHUNK):
        part = slice(start, start + CHUNK)
        queries, keys, values, rates = query[:, :, part], key[:, :, part], value[:, :, part], rate[:, :, part, None]
        passed = decay[:, :, part].cumsum(-1)  # [batch, heads, tokens]
        # of token i what is left of token j, [batch, heads, tokens, tokens]
        left = (passed[..., :, None] - passed[..., None, :]).tril().exp().tril()
        since = passed.exp()[..., None]  # [batch, heads, tokens, 1]
        system = (rates * (keys @ keys.mT) * left).tril(-1)
        system = system + torch.eye(keys.shape[2])
        wanted = rates * (values - since * (keys @ matrix))
        written = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
        mixed.append(since * (queries @ matrix) + ((queries @ keys.mT) * left) @ written)
        to_end = (passed[..., -1:] - passed).exp()[..., None]
        matrix = since[:, :, -1:] * matrix + (keys * to_end).mT @ written
    return torch.cat(mixed, dim=2), matrix
