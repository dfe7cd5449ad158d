"""Object stores, disks and the web: one road, with errors that a person understands."""
