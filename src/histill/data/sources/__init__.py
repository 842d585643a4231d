"""Data sets as others publish them, read into our own table: one module an importer."""
