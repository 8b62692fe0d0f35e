"""One game with frozen weights as a film, in the terminal or as a TensorBoard image."""
