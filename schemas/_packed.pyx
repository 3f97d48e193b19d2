# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled forms of functions in schemas.packed, which says what they do."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t

from array import array

from schemas.errors import SchemaError

cdef array_of_int32 = array("i")


def is_sorted(const int32_t[::1] values):
    cdef Py_ssize_t n
    for n in range(1, values.shape[0]):
        if values[n] < values[n - 1]:
            return False
    return True


def cut(bytes blob, const int32_t[::1] offsets):
    cdef const char* data = PyBytes_AS_STRING(blob)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(blob)
    cdef Py_ssize_t n, start, end
    cdef list slices = []
    for n in range(1, offsets.shape[0]):
        start, end = offsets[n - 1], offsets[n]
        if start < 0 or end < start or end > size:
            raise SchemaError(f"offsets {start}..{end} outside a blob of {size} bytes")
        slices.append(PyBytes_FromStringAndSize(data + start, end - start))
    return slices


def offsets(list slices):
    result = array("i", bytes(4 * (len(slices) + 1)))
    cdef int32_t[::1] view = result
    cdef Py_ssize_t n, total = 0
    for n in range(len(slices)):
        total += PyBytes_GET_SIZE(<bytes?>slices[n])
        if total > 2147483647:
            raise OverflowError("a blob of over 2 GiB")
        view[n + 1] = <int32_t>total
    return result
