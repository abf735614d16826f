"""How Sapling was made, to be run again; ``python -m data.sapling.recipe`` does all of it."""
