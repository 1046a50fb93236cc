"""Pictures that paretune draws: the offline suite and the demo's digits."""
