"""Layer fusion: experts, routing, the table of variants, and their sizes."""
