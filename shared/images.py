"""The image formats that are read: web checks headers by them, workers decode by them."""

# What Pillow's openers are asked for. Pillow knows many more; each parses a stranger's bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# By the format Pillow reports. MPO is what some cameras write into .jpg files: the JPEG opener
# reads it, the first picture of several.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
