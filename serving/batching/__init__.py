"""One queue per ready version; a free instance takes what waits.

`batcher` is the only module here with threads, `fair` is called from them; the others are pure (time is an argument).
What runs next: `queue`, of `lane`s of `item`s, by `policies`, `sizes` and `cost`. How requests become a run and a run
answers: `merge`, `oversize`; `gather` lets a group of them come together. `probe` and `padding` prove at load that this
changes no answer. `explaining` tells people what happened, `simulation` what would have.
"""
