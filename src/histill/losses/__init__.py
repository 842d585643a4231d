"""One term, one function."""
