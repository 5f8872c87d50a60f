"""HTTP: requests become calls, and results or errors become answers."""
