"""How rows get into a table and out of it: the lease, the fence, the one committer, one row for one id."""
