"""What fitted laws say: comparisons, verdicts, predictions, plans."""
