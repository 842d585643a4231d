"""Self-attention over tokens: exact, with padding left out, and approximated for sequences too long for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histill.core.errors import Exit, HistillError

ITERATIONS = 6
"""of the pseudoinverse, as Nystromformer has it"""


class SelfAttention(nn.Module):
    """``softmax(Q K^T / sqrt(c)) V`` of several heads, and a linear layer over what they found.

    Args:
        width: w of a token.
        heads: c = w / heads.
        landmarks: sequences of more tokens are approximated by so many, see `nystrom_attention`; 0 for never.

    Raises:
        HistillError: usage (2) if the width is no multiple of the heads.
    """

    def __init__(self, width: int, heads: int, landmarks: int = 0) -> None:
        super().__init__()
        if width % heads:
            raise HistillError(
                f"{heads} heads do not divide a width of {width}", code=Exit.USAGE, mend="Give a multiple of the heads"
            )
        self.heads, self.landmarks = heads, landmarks
        self.ask, self.tell = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Tokens [b, n, w], of which those that are present (bool [b, n], at least one; None: all) count -> [b, n, w].

        A sequence that is long enough to be approximated must be present as a whole.
        """
        asked = self.ask(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, b, heads, n, c]
        queries, keys, values = asked.unbind()
        if 0 < self.landmarks < tokens.shape[1]:
            if present is not None:
                raise ValueError("landmarks of a sequence with padding would be means over padding")
            found = nystrom_attention(queries, keys, values, self.landmarks)
        else:
            mask = None if present is None else present[:, None, None, :]  # [b, 1, 1, n]
            found = F.scaled_dot_product_attention(queries, keys, values, mask)
        told: Tensor = self.tell(found.transpose(1, 2).flatten(2))  # [b, n, w]
        return told


def nystrom_attention(
    queries: Tensor, keys: Tensor, values: Tensor, landmarks: int, iterations: int = ITERATIONS
) -> Tensor:
    """``softmax(Q K'^T / sqrt(c)) softmax(Q' K'^T / sqrt(c))^+ softmax(Q' K^T / sqrt(c)) V``, linear in n.

    Q' and K' are landmarks: means over segments of the sequence, all of one length but the last. Both outer factors
    are attention themselves, so no matrix of n x landmarks is ever held. Xiong et al., "Nystromformer", AAAI 2021.

    Args:
        queries: Q, [b, heads, n, c].
        keys: K, of the same shape.
        values: V, of the same shape.
        landmarks: the most there may be.
        iterations: of the pseudoinverse.

    Returns:
        float32 [b, heads, n, c].
    """
    # The iteration towards the inverse has no use for eight bits of precision.
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, values = queries.float(), keys.float(), values.float()
        few_queries, few_keys = segment_means(queries, landmarks), segment_means(keys, landmarks)  # [b, heads, m, c]
        middle = (few_queries @ few_keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).softmax(dim=-1)
        summary = pseudoinverse(middle, iterations) @ F.scaled_dot_product_attention(few_queries, keys, values)
        return F.scaled_dot_product_attention(queries, few_keys, summary)


def segment_means(tokens: Tensor, segments: int) -> Tensor:
    """Means over ceil(n / segments) tokens at a time, [..., n, c] -> [..., at most segments, c]."""
    n = tokens.shape[-2]
    length = -(-n // segments)
    count = -(-n // length)
    filled = F.pad(tokens, (0, 0, 0, count * length - n))  # [..., count * length, c]
    sums = filled.reshape(*tokens.shape[:-2], count, length, tokens.shape[-1]).sum(dim=-2)  # [..., count, c]
    lengths = torch.full((count, 1), length, dtype=tokens.dtype, device=tokens.device)
    lengths[-1] = n - (count - 1) * length
    return sums / lengths


def pseudoinverse(matrices: Tensor, iterations: int) -> Tensor:
    """The Moore-Penrose inverse by ``Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4`` from ``A^T / |A|_1 |A|_inf``.

    Each matrix starts from norms of its own, so what else is in a batch changes nothing.

    Args:
        matrices: A, [..., m, m], with no row or column of zeros alone.
        iterations: each about triples the digits that are right.
    """
    sizes = matrices.abs()
    norms = sizes.sum(dim=-1).amax(dim=-1) * sizes.sum(dim=-2).amax(dim=-1)  # [...]
    inverse = matrices.transpose(-1, -2) / norms[..., None, None]
    one = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    for _ in range(iterations):
        product = matrices @ inverse
        inverse = inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return inverse
