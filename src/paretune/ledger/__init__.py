"""Ledgers of results, one result per line, and comparisons of them."""
