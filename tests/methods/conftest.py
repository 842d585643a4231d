"""Makes `tiny`, which the scripts beside it import too, importable from the tests here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
