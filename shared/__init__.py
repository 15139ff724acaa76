"""What web and worker have in common: settings, tables, the life of a job, storage."""
