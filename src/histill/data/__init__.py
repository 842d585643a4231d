"""From manifests to batches, and made-up data with known truth."""
