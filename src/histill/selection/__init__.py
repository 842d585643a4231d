"""Which tiles stand in for a slide, chosen without a learned model."""
