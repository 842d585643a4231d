"""Whole slides: one small `Slide` over scanners' files and flat images, where tissue is, and tiles of it."""
