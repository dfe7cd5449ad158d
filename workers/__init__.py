"""What runs beside the GPU: verbs. The road of one unit is `unit.py`; each stage has its module or its room."""
