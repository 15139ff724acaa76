"""Where the images of an ingestion come from: one module a kind of source."""
