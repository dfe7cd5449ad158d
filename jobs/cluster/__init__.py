"""Ray: joining a cluster or starting one here, what it has, and what to do when it dies."""
