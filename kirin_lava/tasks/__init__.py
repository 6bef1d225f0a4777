"""What a bundle is worth: exactness, quality, cost."""
