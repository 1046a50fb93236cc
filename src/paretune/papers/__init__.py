"""The papers' printed numbers, compared with what paretune computes."""
