"""What a source holds, cut into units that are named by their content: tars, folders, archives, lists, tables, logs."""
