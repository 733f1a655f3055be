"""Benchmarks: timing protocol, roofline, read floor, peers, records, tables and plots."""
