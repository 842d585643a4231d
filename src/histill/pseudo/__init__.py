"""Image labels to pixel labels."""
