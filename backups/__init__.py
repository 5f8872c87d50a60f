"""Backups: everything that PostgreSQL and the folder of uploads hold, in one folder.

A backup is taken of one moment, while the service runs, and is restored as a whole or not at all.
Redis is in none: its messages only ring. ``tables`` says what of PostgreSQL is.
"""
