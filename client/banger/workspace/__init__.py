"""A folder of the user's, mostly a git repository, taken into a guest; and what changed there brought back.

All that reads the repository runs as the user, here. plan.plan makes nothing, here or there; Plan.send does.
"""
