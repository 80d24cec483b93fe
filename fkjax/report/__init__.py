"""Reports on runs and selections: tables, figures and pages."""
