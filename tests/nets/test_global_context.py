"""The global context block against the formula, cell by cell."""

import math

import pytest
import torch

from histill.nets.global_context import GlobalContext


def test_it_is_the_formula_cell_by_cell() -> None:
    torch.manual_seed(0)
    block, maps = GlobalContext(4), torch.randn(2, 4, 3, 5)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    found = block(maps)
    narrow, norm, _, wide = block.change
    for b in range(2):
        cells = [maps[b, :, y, x].tolist() for y in range(3) for x in range(5)]
        key = block.attention.weight[0, :, 0, 0].tolist()
        strengths = [math.exp(sum(k * f for k, f in zip(key, cell, strict=True))) for cell in cells]
        context = [
            sum(s * cell[c] for s, cell in zip(strengths, cells, strict=True)) / sum(strengths) for c in range(4)
        ]
        inner = [
            sum(w * f for w, f in zip(row, context, strict=True)) + bias
            for row, bias in zip(narrow.weight.tolist(), narrow.bias.tolist(), strict=True)
        ]
        mean = sum(inner) / 2
        deviation = math.sqrt(sum((each - mean) ** 2 for each in inner) / 2 + 1e-5)
        scaled = [
            max((each - mean) / deviation * gain + bias, 0.0)
            for each, gain, bias in zip(inner, norm.weight.tolist(), norm.bias.tolist(), strict=True)
        ]
        for c in range(4):
            change = sum(w * f for w, f in zip(wide.weight[c].tolist(), scaled, strict=True)) + float(
                wide.bias[c].detach()
            )
            difference = (found - maps)[b, c]
            assert difference.flatten().tolist() == pytest.approx([change] * 15, abs=1e-4)


def test_it_begins_as_the_identity_and_learns() -> None:
    block, maps = GlobalContext(8), torch.randn(2, 8, 4, 4)
    assert torch.equal(block(maps), maps)
    block(maps).square().sum().backward()
    assert float(block.change[-1].weight.grad.abs().sum()) > 0
