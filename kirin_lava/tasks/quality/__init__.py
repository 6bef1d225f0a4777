"""How much of the original is left: perplexity, errors of layers, accuracy on tasks, recipes and rivals side by side."""
