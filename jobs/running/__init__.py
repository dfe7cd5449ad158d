"""The main job, from the first listing to the tag that readers follow."""
