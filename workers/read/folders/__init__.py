"""Pictures with texts beside them, in a folder or in the zip archive that it was packed into."""
