# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled form of what schemas.block_image does column by column; the layout is told there."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int16_t, int32_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from schemas.errors import SchemaError

cdef enum:
    HEAD = 8
    PLANES_MAX = 16
    NULLS = -1
    SHORT = -2
    LONG = -3
    SHORT_NULL = 255
    ENTRY = 8  # the two lengths of an entry
    COUNT = 2  # of a tuple's fields


cdef struct Piece:
    uint8_t* at
    uint8_t* end


cdef struct Column:
    int32_t width
    const uint8_t* lengths
    const uint8_t* data


cdef inline int32_t get32(const uint8_t* at) noexcept:
    return <int32_t>((<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3])


cdef inline void put32(uint8_t* at, int32_t signed) noexcept:
    cdef uint32_t value = <uint32_t>signed
    at[0], at[1], at[2], at[3] = value >> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255


cdef inline int32_t get16(const uint8_t* at) noexcept:
    return <int16_t>((<int32_t>at[0] << 8) | at[1])


cdef inline void put16(uint8_t* at, Py_ssize_t value) noexcept:
    at[0], at[1] = (value >> 8) & 255, value & 255


cdef Py_ssize_t fields(const uint8_t* at, const uint8_t* end) noexcept:
    """How many fields lie between; -1 when they do not end there."""
    cdef Py_ssize_t found = 0
    cdef int32_t length
    while at < end:
        if end - at < 4:
            return -1
        length = get32(at)
        at += 4
        if length < -1 or length > end - at:
            return -1
        at += max(length, 0)
        found += 1
    return found


cdef Py_ssize_t put_column(Piece* pieces, Py_ssize_t count, uint8_t* out) noexcept:
    """Write the next field of each piece as a column. Returns the bytes written, -1 for a piece that ends before."""
    cdef Py_ssize_t n, plane
    cdef int32_t length, first = NULLS, most = NULLS
    cdef bint alike = True
    cdef uint8_t* begin = out
    cdef uint8_t* at
    for n in range(count):
        if pieces[n].end - pieces[n].at < 4:
            return -1
        length = get32(pieces[n].at)
        if length < NULLS or length > pieces[n].end - pieces[n].at - 4:
            return -1
        if n == 0:
            first = length
        alike = alike and length == first
        most = max(most, length)
    put32(out, first if alike else SHORT if most < SHORT_NULL else LONG)
    out += 4
    if not alike:
        for n in range(count):
            length = get32(pieces[n].at)
            if most < SHORT_NULL:
                out[0] = SHORT_NULL if length < 0 else length
                out += 1
            else:
                put32(out, length)
                out += 4
    if alike and 1 < first <= PLANES_MAX:
        for n in range(count):
            at = pieces[n].at + 4
            for plane in range(first):
                out[plane * count + n] = at[plane]
            pieces[n].at = at + first
        return out + first * count - begin
    for n in range(count):
        length = max(get32(pieces[n].at), 0)
        memcpy(out, pieces[n].at + 4, length)
        out += length
        pieces[n].at += 4 + length
    return out - begin


cdef Py_ssize_t put_columns(Piece* pieces, Py_ssize_t count, Py_ssize_t columns, uint8_t* out) noexcept:
    """Write all fields of the pieces, `columns` of each. Returns the bytes written, -1 if a piece has others."""
    cdef Py_ssize_t n, size, written = 0
    for n in range(columns):
        size = put_column(pieces, count, out + written)
        if size < 0:
            return -1
        written += size
    for n in range(count):
        if pieces[n].at != pieces[n].end:
            return -1
    return written


def encode(list entries, Py_ssize_t bytes_max):
    cdef Py_ssize_t count = len(entries), present = 0, gone, here = 0, size = 0, keys, columns = 0, written, more
    cdef Piece* pieces = <Piece*>malloc((2 * count + 1) * sizeof(Piece))
    cdef Piece* rows = pieces + count
    cdef Piece* piece
    cdef uint8_t* out
    try:
        if pieces == NULL:
            raise MemoryError
        for _, row in entries:
            present += row is not None
        gone = present
        for key, row in entries:
            if row is None:
                piece = &pieces[gone]
                gone += 1
            else:
                piece = &pieces[here]
                rows[here].at = <uint8_t*>PyBytes_AS_STRING(<bytes?>row)
                rows[here].end = rows[here].at + PyBytes_GET_SIZE(<bytes>row)
                size += PyBytes_GET_SIZE(<bytes>row)
                here += 1
            piece.at = <uint8_t*>PyBytes_AS_STRING(<bytes?>key)
            piece.end = piece.at + PyBytes_GET_SIZE(<bytes>key)
            size += ENTRY + PyBytes_GET_SIZE(<bytes>key)
        if count == 0:
            return None
        keys = fields(pieces[0].at, pieces[0].end)
        for n in range(present):
            if rows[n].end - rows[n].at < COUNT:
                return None
            if n == 0:
                columns = get16(rows[n].at)
            if get16(rows[n].at) != columns:
                return None
            rows[n].at += COUNT
        size += HEAD + 4 * (keys + columns)  # what the columns take at most
        if not 0 < keys <= 0x7fff or columns < 0 or (present and columns == 0) or size > bytes_max:
            return None
        made = PyBytes_FromStringAndSize(NULL, size)
        out = <uint8_t*>PyBytes_AS_STRING(made)
        put16(out, keys)
        put16(out + 2, columns)
        put32(out + 4, <int32_t>present)
        written = put_columns(pieces, count, keys, out + HEAD)
        more = put_columns(rows, present, columns, out + HEAD + written) if written >= 0 else -1
        return made[: HEAD + written + more] if more >= 0 else None
    finally:
        free(pieces)


cdef const uint8_t* find_column(Column* column, Py_ssize_t count, const uint8_t* at, const uint8_t* end) noexcept:
    """Where a column's parts are, and what follows it; NULL when it leads over the end."""
    cdef Py_ssize_t n, size = 0
    cdef int32_t length
    if end - at < 4:
        return NULL
    column.width = get32(at)
    at += 4
    column.lengths = at
    if column.width >= 0:
        size = column.width * count
    elif column.width == SHORT:
        if end - at < count:
            return NULL
        for n in range(count):
            size += 0 if at[n] == SHORT_NULL else at[n]
        at += count
    elif column.width == LONG:
        if end - at < 4 * count:
            return NULL
        for n in range(count):
            length = get32(at + 4 * n)
            if length < NULLS:
                return NULL
            size += max(length, 0)
        at += 4 * count
    elif column.width != NULLS:
        return NULL
    column.data = at
    return at + size if end - at >= size else NULL


cdef inline int32_t length_of(const Column* column, Py_ssize_t n) noexcept:
    if column.width == SHORT:
        if column.lengths[n] == SHORT_NULL:
            return NULLS
        return column.lengths[n]
    if column.width == LONG:
        return get32(column.lengths + 4 * n)
    return column.width


cdef list pieces_of(Column* columns, Py_ssize_t count, Py_ssize_t width, Py_ssize_t skip):
    """The pieces of `count` entries, of `width` columns each; `skip` bytes stay free before them for their number."""
    cdef Py_ssize_t n, number, plane, size
    cdef int32_t length
    cdef uint8_t* out
    cdef const uint8_t* data
    cdef list made = []
    cdef uint8_t** heads = <uint8_t**>malloc((count + 1) * sizeof(uint8_t*))
    if heads == NULL:
        raise MemoryError
    try:
        for n in range(count):
            size = skip + 4 * width
            for number in range(width):
                size += max(length_of(&columns[number], n), 0)
            piece = PyBytes_FromStringAndSize(NULL, size)
            made.append(piece)
            heads[n] = <uint8_t*>PyBytes_AS_STRING(piece)
            if skip:
                put16(heads[n], width)
            heads[n] += skip
        for number in range(width):
            data = columns[number].data
            for n in range(count):
                length, out = length_of(&columns[number], n), heads[n]
                put32(out, length)
                out += 4
                length = max(length, 0)
                if 1 < columns[number].width <= PLANES_MAX:
                    for plane in range(length):
                        out[plane] = data[plane * count + n]
                else:
                    memcpy(out, data, length)
                    data += length
                heads[n] = out + length
        return made
    finally:
        free(heads)


def decode(bytes image, Py_ssize_t count, Py_ssize_t bytes_max):
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(image)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(image)
    cdef Py_ssize_t keys, columns, present, size, n
    cdef Column* found
    if end - at < HEAD:
        raise SchemaError(f"block image: {end - at} bytes, no columns")
    keys, columns, present = get16(at), get16(at + 2), get32(at + 4)
    at += HEAD
    if keys <= 0 or columns < 0 or not 0 <= present <= count or (present and not columns):
        raise SchemaError(f"block image: {keys} and {columns} columns, {present} of {count} rows")
    size = count * (ENTRY + 4 * keys) + present * (COUNT + 4 * columns)
    if size > bytes_max:
        raise SchemaError(f"block image: {count} rows of {columns} columns, over the limit of {bytes_max} bytes")
    found = <Column*>malloc((keys + columns) * sizeof(Column))
    if found == NULL:
        raise MemoryError
    try:
        for n in range(keys + columns):
            at = find_column(&found[n], count if n < keys else present, at, end)
            if at == NULL:
                raise SchemaError(f"block image: column {n} leads outside its {PyBytes_GET_SIZE(image)} bytes")
        if at != end:
            raise SchemaError(f"block image: {end - at} bytes after {keys + columns} columns")
        rows = pieces_of(found + keys, present, columns, COUNT)
        if present < count:
            rows += [None] * (count - present)
        return list(zip(pieces_of(found, count, keys, 0), rows))
    finally:
        free(found)
