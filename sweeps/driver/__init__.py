"""The process that drives a sweep: what runs next, on what, and what a person sees of it."""
