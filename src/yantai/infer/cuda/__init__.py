"""Decoding on a GPU: a few kernels a layer, replayed as one graph."""
