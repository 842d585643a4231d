"""WSISum's files, read: training files with one feature row more than places, and summaries without places.

That last row is the slide target on which its network was trained: a vector of the slide, and no tile. It becomes
``slide_vectors["wsisum"]``. No other format may have lengths that differ.
"""

from __future__ import annotations

import numpy as np

from histill.core.bags import BagFacts, BagFile
from histill.formats.hdf5 import Hdf5, read_corners

TARGET = "wsisum"


def recognises(file: Hdf5) -> bool:
    """Whether a file has one feature row more than places, or no places."""
    if "features" not in file:
        return False
    if "coords" not in file:
        return True
    features, coords = file.array("features", "f", (1, 2)), file.array("coords", "iuf", (2,))
    return len(features.shape) == 2 and features.shape[0] == coords.shape[0] + 1


def open_file(file: Hdf5) -> BagFile:
    """A bag of a file that is open; the bag closes it.

    Raises:
        HistillError: as `Hdf5.array` and `BagFacts`.
    """
    features = file.array("features", "f", (2,))
    if "coords" not in file:
        return BagFile("wsisum", BagFacts(slide=file.path.stem, path=file.path), features, release=file.close)
    coords = read_corners(file.array("coords", "iuf", (2,)))
    count = len(coords)
    target = features[count : count + 1][0].astype(np.float32)
    facts = BagFacts(slide=file.path.stem, coords=coords, slide_vectors={TARGET: target}, path=file.path)
    return BagFile("wsisum", facts, features, count, release=file.close)
