# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled form of connectors.postgres.arrays.arrays_python, which says what it does."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint32_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from schemas.errors import SchemaError

cdef enum:
    HEADER = 20


cdef inline uint32_t get32(const uint8_t* at) noexcept:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef inline void put32(uint8_t* at, uint32_t value) noexcept:
    at[0], at[1], at[2], at[3] = value >> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255


cdef Py_ssize_t measure(list blobs, Py_ssize_t skip, Py_ssize_t columns, Py_ssize_t* sizes, uint8_t* nulls) except -1:
    """Count the rows; add up each column's bytes and note its NULLs."""
    cdef Py_ssize_t rows = 0, at, end, n
    cdef uint32_t length
    cdef const uint8_t* data
    for blob in blobs:
        data, at, end = <const uint8_t*>PyBytes_AS_STRING(<bytes?>blob), 0, PyBytes_GET_SIZE(blob)
        while at < end:
            if skip == 2 and (at + 2 > end or (data[at] << 8 | data[at + 1]) != columns):
                raise SchemaError(f"a tuple does not hold {columns} fields")
            at += skip
            for n in range(columns):
                if at + 4 > end:
                    raise SchemaError(f"field {n} starts outside its {end} bytes")
                length = get32(data + at)
                at += 4
                sizes[n] += 4
                if length == 0xffffffff:
                    nulls[n] = 1
                elif length > 0x7fffffff or at + length > end:
                    raise SchemaError(f"field {n} leads outside its {end} bytes")
                else:
                    sizes[n] += length
                    at += length
            rows += 1
    return rows


def arrays(list blobs, list types, bint tuples):
    cdef Py_ssize_t skip = 2 if tuples else 0, columns = len(types), n, at, end, rows
    cdef uint32_t length
    cdef const uint8_t* data
    cdef uint8_t* head
    cdef Py_ssize_t* sizes = <Py_ssize_t*>calloc(columns + 1, sizeof(Py_ssize_t))
    cdef uint8_t* nulls = <uint8_t*>calloc(columns + 1, 1)
    cdef uint8_t** heads = <uint8_t**>calloc(columns + 1, sizeof(uint8_t*))
    try:
        if sizes == NULL or nulls == NULL or heads == NULL:
            raise MemoryError
        rows = measure(blobs, skip, columns, sizes, nulls)
        found = []
        for n in range(columns):
            made = PyBytes_FromStringAndSize(NULL, HEADER + sizes[n])
            found.append(made)
            head = <uint8_t*>PyBytes_AS_STRING(made)
            put32(head, 1)
            put32(head + 4, nulls[n])
            put32(head + 8, types[n])
            put32(head + 12, <uint32_t>rows)
            put32(head + 16, 1)
            heads[n] = head + HEADER
        for blob in blobs:
            data, at, end = <const uint8_t*>PyBytes_AS_STRING(<bytes>blob), 0, PyBytes_GET_SIZE(blob)
            while at < end:
                at += skip
                for n in range(columns):
                    length = get32(data + at)
                    length = 4 if length == 0xffffffff else 4 + length
                    memcpy(heads[n], data + at, length)
                    heads[n] += length
                    at += length
        return rows, found
    finally:
        free(sizes)
        free(nulls)
        free(heads)
