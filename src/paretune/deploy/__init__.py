"""Models outside of torch: written, checked, and run. `artefact.py` and what it imports work without torch."""
