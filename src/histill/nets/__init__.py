"""Encoders, segmenters, heads, and the one rule for weights."""
