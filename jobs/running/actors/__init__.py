"""The actors of a run: how many, how they start, what each is handed, whether it gets on, and what its end says.

Of this room only these modules know Ray.
"""
