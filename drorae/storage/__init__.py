"""Files that are whole or absent, the cache, stores at URLs."""
