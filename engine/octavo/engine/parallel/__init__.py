"""Several processes that compute one model together: how they start, meet, get their work and fail.

Nothing here knows which runner a rank has. [docs/parallelism.md] tells the whole.
"""
