"""One game with frozen weights, to look at: a film, the terminal, a window."""
