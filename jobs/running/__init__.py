"""The main job, from the first listing to the tag that readers follow.

`embed` finds what is to do; `run` has the steps in their order: `opening`, `work`, `closing`. `leaving` is the run that
needs no workers. Those are in `actors`.
"""
