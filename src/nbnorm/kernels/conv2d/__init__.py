"""Two-dimensional convolutions, as GEMMs over pixels that are never laid out as a matrix."""
