"""How many pixels decoding an AVIF makes, whatever its header says.

libavif decodes the frames as large as they are, and scales them to the size that the header says:
a file of 1 kB that says 40 × 30 may cost gigabytes. (Other decoders allocate what the header says,
or refuse.) Here the sizes in the AV1 data itself are read, and nothing is decoded.

Sources: ISO/IEC 14496-12 (boxes, `stco`), ISO/IEC 23008-12 (`iloc`), and the AV1 specification,
sections 5.3.2 (OBU header) and 5.5 (sequence header).
"""

import struct
from collections.abc import Iterator

_SEQUENCE_HEADER = 1  # the type of an OBU
_LONGEST_HEADER = 1024  # bytes, with all of 32 operating points
# Far more than an honest file has; each costs about a microsecond.
_MOST_STEPS = 100_000


def coded_pixels(data: bytes) -> int:
    """Width times height of all that may be decoded for one frame: colours, transparency, tiles.

    It is exact for still images, and up to four times too much for animations.

    Raises:
        ValueError: The structure is damaged.
    """
    file = memoryview(data)
    try:
        # An animation holds its first frame as a still image too; one of them is decoded.
        return max(_total(_still_samples(file)), _total(_first_samples(file)))
    except (struct.error, IndexError, _CutOff) as error:
        raise ValueError("The AVIF's structure is damaged.") from error


def _total(samples: Iterator[memoryview]) -> int:
    steps = total = 0
    for sample in samples:
        largest = 0
        for pixels in _frame_sizes(sample):
            largest = max(largest, pixels)
            steps += 1
            if steps > _MOST_STEPS:
                raise ValueError("The AVIF has too many parts.")
        total += largest
    return total


def _still_samples(file: memoryview) -> Iterator[memoryview]:
    """The data of each item."""
    for meta in _find(file, b"meta"):
        idat = next(_find(meta[4:], b"idat"), file[:0])
        for iloc in _find(meta[4:], b"iloc"):
            yield from _items(iloc, file, idat)


def _first_samples(file: memoryview) -> Iterator[memoryview]:
    """The data of each track, from its first frame on."""
    for table in _find(file, b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        for kind, body in _boxes(table):
            if kind in (b"stco", b"co64"):
                [offset] = struct.unpack_from(">I" if kind == b"stco" else ">Q", body, 8)
                yield file[offset:]


def _boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes that follow each other in `view`, as (type, content)."""
    for _ in range(_MOST_STEPS):
        if len(view) < 8:  # noqa: PLR2004 - the size of a box's head
            return
        size, kind = struct.unpack_from(">I4s", view)
        head = 8
        if size == 1:
            head = 16
            [size] = struct.unpack_from(">Q", view, 8)
        size = size or len(view)
        if not head <= size <= len(view):
            return
        yield kind, view[head:size]
        view = view[size:]
    raise ValueError("The AVIF has too many parts.")


def _find(view: memoryview, kind: bytes, *below: bytes) -> Iterator[memoryview]:
    """The contents of all boxes at a path of types."""
    for found, body in _boxes(view):
        if found == kind:
            yield from _find(body, *below) if below else (body,)


def _items(iloc: memoryview, file: memoryview, idat: memoryview) -> Iterator[memoryview]:
    """The data of each item: its extents, joined."""
    version, sizes, more = iloc[0], iloc[4], iloc[5]
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
    index_size = more & 15 if version else 0
    reader = _Numbers(iloc[6:])
    wide = 4 if version > 1 else 2
    length_of_all = 0
    for _ in range(reader.read(wide)):
        reader.read(wide)  # the item's id
        source = idat if version and reader.read(2) & 15 == 1 else file
        reader.read(2)  # the file that it is in: this one
        base = reader.read(base_size)
        extents = []
        for _ in range(reader.read(2)):
            reader.read(index_size)
            begin, length = base + reader.read(offset_size), reader.read(length_size)
            extents.append(source[begin : begin + length] if length else source[begin:])
        length_of_all += sum(map(len, extents))
        if length_of_all > len(file):  # and joining them would cost any time
            raise ValueError("The AVIF's items overlap.")
        yield extents[0] if len(extents) == 1 else memoryview(b"".join(extents))


def _frame_sizes(sample: memoryview) -> Iterator[int]:
    """The most pixels of a frame, for each sequence header; 0 for the sample and any other OBU."""
    yield 0
    try:
        while sample:
            head, at = sample[0], 2 if sample[0] & 4 else 1
            length = len(sample) - at
            if head & 2:
                length, at = _leb128(sample, at)
            if length > len(sample) - at:
                return
            is_header = head >> 3 & 15 == _SEQUENCE_HEADER
            yield _largest_frame(sample[at : at + length]) if is_header else 0
            sample = sample[at + length :]
    except (IndexError, _CutOff):
        return  # it is no AV1, but Exif for example; or damaged, and no decoder goes on


def _leb128(view: memoryview, at: int) -> tuple[int, int]:
    """A number at a place, and the place behind it."""
    number = 0
    for shift in range(0, 56, 7):
        byte = view[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:  # noqa: PLR2004 - the high bit says that more follow
            break
    return number, at


def _largest_frame(header: memoryview) -> int:
    bits = _Bits(header[:_LONGEST_HEADER])
    bits.read(4)  # profile, still picture
    reduced = bits.read(1)
    if reduced:
        bits.read(5)  # level
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    if reduced:
        return (bits.read(width_bits) + 1) * (bits.read(height_bits) + 1)
    # Frames may override the size that comes now, by any that has so many bits. Encoders write no
    # more bits than the size needs.
    return int(2 ** (width_bits + height_bits))


def _skip_operating_points(bits: "_Bits") -> None:
    delay_bits = 0
    if bits.read(1):  # timing
        bits.read(64)
        if bits.read(1):
            zeros = 0
            while not bits.read(1):
                zeros += 1
            bits.read(zeros)
        if bits.read(1):  # decoder model
            delay_bits = bits.read(5) + 1
            bits.read(42)
    has_display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # noqa: PLR2004 - levels from 4.0 on have tiers
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_display_delay and bits.read(1):
            bits.read(4)


class _CutOff(Exception):
    """Less is there than is said to be."""


class _Numbers:
    """Big-endian numbers of so many bytes, one after the other."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0
        self._reads = 0

    def read(self, size: int) -> int:
        self._reads += 1  # a number of no bytes can be read for ever
        if self._reads > _MOST_STEPS:
            raise ValueError("The AVIF has too many parts.")
        end = self._at + size
        if end > len(self._view):
            raise _CutOff
        number = int.from_bytes(self._view[self._at : end])
        self._at = end
        return number


class _Bits:
    """Numbers of so many bits, the highest first."""

    def __init__(self, view: memoryview) -> None:
        self._number = int.from_bytes(view)
        self._left = len(view) * 8

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise _CutOff
        return self._number >> self._left & ((1 << count) - 1)
