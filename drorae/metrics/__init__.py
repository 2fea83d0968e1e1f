"""What is measured: image metrics, Frechet distances in named features, and their evaluation together."""
