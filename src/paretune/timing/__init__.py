"""Seconds and bytes, measured side by side."""
