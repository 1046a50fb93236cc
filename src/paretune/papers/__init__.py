"""The numbers printed in the papers, compared with those that paretune computes."""
