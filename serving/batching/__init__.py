"""One queue per ready version; a free instance takes what waits.

`queue`, `merge` and `gather` are pure (time is an argument); `batcher` is the only module here with threads; `probe`
proves at load that rows of different requests may share a run at all.
"""
