"""One game with frozen weights, as a video or in the terminal."""
