# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled forms of functions in schemas.packed, which says what they do."""

from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t
from libc.string cimport memcpy

from schemas.errors import SchemaError

cdef array.array array_of_int32 = array.array("i")


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
    cdef array.array result = array.clone(array_of_int32, len(slices) + 1, False)
    cdef int* ends = result.data.as_ints
    cdef Py_ssize_t n, total = 0
    ends[0] = 0
    for n in range(len(slices)):
        total += PyBytes_GET_SIZE(<bytes?>slices[n])
        if total > 2147483647:
            raise OverflowError("a blob of over 2 GiB")
        ends[n + 1] = <int>total
    return result


def rows_of(const int32_t[::1] tx, const int32_t[::1] wanted):
    cdef Py_ssize_t size = tx.shape[0]
    cdef Py_ssize_t n, low, high, middle, at = 0, found = 0
    cdef array.array rows = array.clone(array_of_int32, size, False)
    cdef array.array numbers = array.clone(array_of_int32, size, False)
    cdef int* row_at = rows.data.as_ints
    cdef int* number_at = numbers.data.as_ints
    for n in range(wanted.shape[0]):
        low, high = at, size
        while low < high:
            middle = (low + high) >> 1
            if tx[middle] < wanted[n]:
                low = middle + 1
            else:
                high = middle
        at = low
        while at < size and tx[at] == wanted[n]:
            row_at[found], number_at[found] = <int>at, <int>n
            found += 1
            at += 1
    array.resize(rows, found)
    array.resize(numbers, found)
    return rows, numbers


def gather(bytes blob, const int32_t[::1] offsets, const int32_t[::1] rows):
    cdef const char* data = PyBytes_AS_STRING(blob)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(blob)
    cdef Py_ssize_t entries = offsets.shape[0] - 1
    cdef Py_ssize_t count = rows.shape[0]
    cdef Py_ssize_t n, row, start, end, total = 0
    cdef array.array result = array.clone(array_of_int32, count + 1, False)
    cdef int* ends = result.data.as_ints
    ends[0] = 0
    for n in range(count):
        row = rows[n]
        if row < 0 or row >= entries:
            raise IndexError(row)
        start, end = offsets[row], offsets[row + 1]
        if start < 0 or end < start or end > size:
            raise SchemaError(f"offsets {start}..{end} outside a blob of {size} bytes")
        total += end - start
        if total > 2147483647:
            raise OverflowError("a blob of over 2 GiB")
        ends[n + 1] = <int>total
    cdef bytes joined = PyBytes_FromStringAndSize(NULL, total)
    cdef char* into = PyBytes_AS_STRING(joined)
    for n in range(count):
        start = offsets[rows[n]]
        memcpy(into + ends[n], data + start, ends[n + 1] - ends[n])
    return joined, result


def pick(array.array values, const int32_t[::1] rows):
    cdef Py_ssize_t size = len(values)
    cdef Py_ssize_t count = rows.shape[0]
    cdef Py_ssize_t n, width = values.itemsize
    cdef array.array result = array.clone(values, count, False)
    if width != 4 and width != 8:
        raise TypeError(f"items of {width} bytes")
    for n in range(count):
        if rows[n] < 0 or rows[n] >= size:
            raise IndexError(rows[n])
        if width == 4:
            result.data.as_ints[n] = values.data.as_ints[rows[n]]
        else:
            result.data.as_longlongs[n] = values.data.as_longlongs[rows[n]]
    return result


def pick_bytes(bytes values, const int32_t[::1] rows):
    cdef const char* data = PyBytes_AS_STRING(values)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(values)
    cdef Py_ssize_t count = rows.shape[0]
    cdef Py_ssize_t n
    cdef bytes result = PyBytes_FromStringAndSize(NULL, count)
    cdef char* into = PyBytes_AS_STRING(result)
    for n in range(count):
        if rows[n] < 0 or rows[n] >= size:
            raise IndexError(rows[n])
        into[n] = data[rows[n]]
    return result
