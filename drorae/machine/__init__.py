"""What a machine has, and what a trial needs of it."""
