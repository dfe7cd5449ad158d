"""What a run costs, in numbers that no machine changes: requests, bytes, commits, memory, imports.

A suite of CI runs these and what else is marked `counted`; they say nothing about time. A constant here is what was
counted when the test was written: who makes it smaller writes the smaller one, who needs a larger one says why.
"""
