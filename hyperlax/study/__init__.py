"""A search: Optuna's suggestions, the database, the files, and the one loop over them. The only importer of optuna."""
