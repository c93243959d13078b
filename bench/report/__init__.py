"""Results as files, tables, pages and plots."""
