"""How a slim ViT runs: linear maps over tokens, the bundle that travels, attention, the reading of timm, the trunk."""
