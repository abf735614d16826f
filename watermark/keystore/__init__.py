"""Named keys on disk, and the files that carry them from one store to another."""
