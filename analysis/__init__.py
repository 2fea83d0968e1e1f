"""From finished runs to a fitted law and its report: no training, no Ray, no torch."""
