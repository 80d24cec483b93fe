"""The commands `fkjax run`, `fkjax select`, `fkjax report` and `fkjax label`."""
