"""Writing keys into pictures that exist."""
