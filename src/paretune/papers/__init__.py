"""What the papers print, held against what paretune computes."""
