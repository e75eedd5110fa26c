"""Whole workflows made of the rooms below."""
