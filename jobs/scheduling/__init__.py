"""When a night runs: manifests and files for schedulers that print, quoted for their own languages, what they run."""
