"""Measurements that the README quotes. Each writes JSON and a figure into ``benchmarks/results``."""
