"""How an adapted ViT runs: token reductions, the token batch, attention, access to timm's classes, the block loop."""
