"""The image formats that are read: web checks headers by them, workers decode by them."""

from PIL import Image

# The limit of the settings is checked on the header, by web and worker alike. Pillow's own limit
# beside it, which belongs to the whole process, would be one too many.
Image.MAX_IMAGE_PIXELS = None

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
