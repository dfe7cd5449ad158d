"""What people write, as frozen values: the job file and its sections, vocabularies of tags, recipes for data sets."""
