"""The command line: `fkjax run`, `select`, `report` and `label`."""
