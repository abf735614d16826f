"""Verdicts for people and machines, and reports of any number of them that survive their program."""
