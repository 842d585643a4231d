"""The baseline's maps, against the formula."""

import torch
from tiny import TISSUES, tiny_config
from torch.nn import functional as F

from histill.data.tiles import TileBatch
from histill.methods.cam import Cam


def test_activation_maps_are_the_heads_map_over_its_maximum_per_class() -> None:
    torch.manual_seed(0)
    method = Cam(tiny_config(Cam), TISSUES.as_classes())
    images = torch.rand(2, 3, 48, 64)
    nothing = torch.zeros(2, 0, 48, 64).long()
    batch = TileBatch(images, torch.ones(2, 48, 64, dtype=torch.bool), torch.ones(2, 3), nothing, ("a", "b"))
    found = method.activation_maps(batch)
    with torch.no_grad():
        last = method.classifier.encoder(images)[-1]
    weight = method.classifier.head.weight.detach()[:, :, 0, 0]
    for i in range(2):
        for k in range(3):
            own = sum(weight[k, n] * last[i, n] for n in range(last.shape[1]))
            assert isinstance(own, torch.Tensor)
            large = F.interpolate(own.clamp(min=0)[None, None], (48, 64), mode="bilinear", align_corners=False)[0, 0]
            expected = large / large.max() if float(large.max()) > 0 else large
            torch.testing.assert_close(found[i, k], expected, rtol=1e-3, atol=1e-4)
    assert not found.requires_grad
