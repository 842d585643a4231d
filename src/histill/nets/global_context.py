"""The global context block: what a whole map says, added to each of its cells."""

from __future__ import annotations

from torch import Tensor, nn


class GlobalContext(nn.Module):
    """``R(F) = F + W2 relu(LN(W1 sum_j softmax_j(w F_j) F_j))``.

    Cao et al., "GCNet: Non-local networks meet squeeze-excitation networks and beyond", ICCV Workshops 2019. It begins
    as the identity: W2 and its bias are 0.

    Args:
        channels: c of the maps.
        narrower: by how much W1 narrows them.
    """

    def __init__(self, channels: int, narrower: int = 2) -> None:
        super().__init__()
        self.attention = nn.Conv2d(channels, 1, kernel_size=1)
        inner = channels // narrower
        self.change = nn.Sequential(
            nn.Linear(channels, inner), nn.LayerNorm(inner), nn.ReLU(), last := nn.Linear(inner, channels)
        )
        nn.init.kaiming_normal_(self.attention.weight)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [b, c, h, w] -> the same shape."""
        weights = self.attention(maps).flatten(2).softmax(dim=-1)  # [b, 1, h w]
        context = (maps.flatten(2) * weights).sum(dim=-1)  # [b, c]
        changed: Tensor = self.change(context)[..., None, None]  # [b, c, 1, 1]
        return maps + changed
