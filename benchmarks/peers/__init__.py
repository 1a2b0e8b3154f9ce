"""Other libraries' scores on the runs that ship, against the same real retraining: `make bench-peers`.

Each library is called as its documentation says, in an environment of its own; nothing of it is needed elsewhere.
"""
