"""Dropout of parts of a batch against that of the whole. What needs other processes is in test_team."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from histill.data.batches import Share
from histill.engine.whole_batch import WholeBatch


def drawn(module: nn.Module, values: Tensor, size: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Of the whole; of the parts, put together; and what each then draws next."""
    torch.manual_seed(5)
    whole, after = module(values), [torch.rand(3)]
    rows, parts = len(values) // 2, []
    for rank in range(size):
        share = Share(rank, size)
        own = share.of(rows)
        torch.manual_seed(5)
        with WholeBatch(share, rows):
            parts.append(module(values[2 * own.start : 2 * own.stop]))
        after.append(torch.rand(3))
    return whole, torch.cat(parts), after


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Dropout(0.3), (14, 3, 4, 5)),
        (nn.Dropout(0.5), (14, 6)),
        (nn.Dropout1d(0.4), (14, 3, 4)),
        (nn.Dropout2d(0.4), (14, 3, 4, 5)),
        (nn.Dropout3d(0.4), (14, 3, 4, 5, 2)),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_of_parts_is_that_of_the_whole_to_the_bit(
    size: int, module: nn.Module, shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    values = torch.rand(shape) + 1
    if layout == torch.channels_last and len(shape) != 4:
        return
    # Two rows an image, as in a network that cuts images into windows.
    whole, parts, after = drawn(module, values.contiguous(memory_format=layout), size)
    assert 0 < (whole == 0).float().mean() < 1
    assert torch.equal(parts, whole)
    assert all(torch.equal(each, after[0]) for each in after)


def test_gradients_pass_where_values_do() -> None:
    values = torch.ones(4, 3, requires_grad=True)
    with WholeBatch(Share(1, 2), 8):
        found = nn.functional.dropout(values, 0.25)
    found.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, found.detach())


@pytest.mark.parametrize(
    "change",
    [
        lambda values: nn.functional.dropout(values, 0.5, training=False),
        lambda values: nn.functional.dropout(values, 0.0),
        lambda values: nn.functional.batch_norm(values, torch.zeros(3), torch.ones(3)),
        lambda values: nn.functional.relu(values - 0.5),
        lambda values: nn.Dropout2d(0.5).eval()(values),
    ],
)
def test_all_else_is_torchs(change: Callable[[Tensor], Tensor]) -> None:
    values = torch.rand(4, 3, 2, 2)
    expected = change(values)
    with WholeBatch(Share(0, 2), 8):
        found = change(values)
    assert torch.equal(found, expected)


def test_rows_that_belong_to_no_image_are_dropped_as_torch_does() -> None:
    values = torch.rand(5, 3)
    torch.manual_seed(0)
    expected = nn.functional.dropout(values, 0.5)
    torch.manual_seed(0)
    with WholeBatch(Share(0, 2), 8):
        assert torch.equal(nn.functional.dropout(values, 0.5), expected)
