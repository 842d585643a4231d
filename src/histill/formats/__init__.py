"""What other tools read and write: QuPath GeoJSON, OME-TIFF, ASAP XML."""
