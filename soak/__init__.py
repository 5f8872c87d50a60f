"""A running service, broken at random for as long as you like, and a count of what was lost.

``python -m soak --jobs 300 --seed 7``. Nothing here believes what the service says of itself: who
wrote what is noted by triggers in PostgreSQL, who ran what by the engines, who was promised what
by the clients.
"""
