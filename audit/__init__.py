"""Who did what: audit events, only ever added, chained by SHA-256 so that a change shows.

An event is written in the transaction of the act that it tells of: both are there or neither is.
To chain it there and then would have every request wait for every other's commit, so rows come in
without a seal, and maintenance seals them in order moments later (``chain``).
"""
