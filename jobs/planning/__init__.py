"""From a job file and a listing to what there is to do, and what it will cost; writes nothing."""
