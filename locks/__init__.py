"""Exactly what is installed: every package at one version, with its files' digests."""
