"""train, evaluate, predict: what the commands of these names do, as functions."""
