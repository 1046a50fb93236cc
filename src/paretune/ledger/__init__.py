"""Results, one a line, and what may be said when they are laid side by side."""
