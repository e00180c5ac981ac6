"""The matrix: stages, their keys, the store that keeps them, and what runs them."""
