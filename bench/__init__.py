"""Measurements that anyone can repeat: ``make bench``.

Each prints ratios to ceilings measured in the same run, since the machine and its disk decide about
absolute times.
"""
