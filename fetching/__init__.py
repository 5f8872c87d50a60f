"""Recordings that are fetched from addresses that clients named, and gone on with where it broke.

What is to be fetched is a row, so none is forgotten; what is here of it lies beside the uploads,
and counts as far as the row says.
"""
