"""What needs torch to be read: a tensor in a .pt file, read so that no code of the file's is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from histill.core.bags import bag_error
from histill.core.errors import Exit, HistillError
from histill.formats.guards import COPY_AGAIN, MOST_BYTES, TOO_LARGE, file_size, shown

NOT_A_BAG = "Save the features alone: torch.save(features, path)"


def read_tensor(path: Path) -> Tensor:
    """The one tensor that a file holds, on the CPU: float16 stays, all other fractions become float32.

    Raises:
        HistillError: input (4) if it is missing, cut off, or holds something else; unsafe (5) if reading it would run
            code, or it claims far more than is stored.
    """
    size = file_size(path)
    if size > MOST_BYTES:
        raise bag_error(str(path), f"{size:,} bytes, more than any array of features", TOO_LARGE, Exit.UNSAFE)
    try:
        _check_archive(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "refused: the file holds a pickle that could run code, or is damaged"
        raise bag_error(str(path), what, NOT_A_BAG, Exit.UNSAFE) from error
    except HistillError:
        raise
    except Exception as error:
        # torch's readers raise whatever the damaged bytes lead them to.
        what = shown(" ".join(str(error).split())[:160]) or type(error).__name__
        raise bag_error(str(path), f"cannot be read: {what}", COPY_AGAIN) from error
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout != torch.strided:
        held = type(value).__name__
        if isinstance(value, dict):
            held += f" of {', '.join(shown(str(key))[:40] for key in list(value)[:8])}"
        elif isinstance(value, Tensor):
            held = f"tensor of {value.dtype}"
        raise bag_error(str(path), f"it holds a {held}, not one tensor of features", NOT_A_BAG)
    claimed = value.numel() * value.element_size()
    # A tensor may repeat one number without end, by steps of 0.
    if claimed > value.untyped_storage().nbytes() or value.untyped_storage().nbytes() > size:
        raise bag_error(str(path), f"it claims {claimed:,} bytes in {size:,}: it may be a bomb", TOO_LARGE, Exit.UNSAFE)
    return value.detach().to(torch.float16 if value.dtype == torch.float16 else torch.float32)


def _check_archive(path: Path) -> None:
    """Hold a zip archive of torch against its checksums, which torch itself does not look at.

    torch packs without compression; what is compressed may be a bomb.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise bag_error(str(path), "it is compressed, as torch's files are not", NOT_A_BAG, Exit.UNSAFE)
        damaged = archive.testzip()
    if damaged:
        raise bag_error(str(path), f"damaged: the checksum of '{shown(damaged)}' does not fit", COPY_AGAIN)
