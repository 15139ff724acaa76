"""The front end: images in, job status out. Imports neither worker nor any model library."""
