"""A version of a table as a data set that others load: a repository of the Hugging Face Hub, or a folder like one."""
