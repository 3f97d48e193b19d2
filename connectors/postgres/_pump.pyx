# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled form of connectors.postgres.pump, which says what it does. tests/unit/test_compiled.py compares them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_GetItem
from cpython.list cimport PyList_Append
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

DEF HEADER = 25
DEF COLUMNS_MAX = 1664  # of a PostgreSQL table
DEF PG_EPOCH_US = 946684800000000


cdef inline uint32_t uint32_at(const unsigned char* at) noexcept nogil:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef inline int64_t int64_at(const unsigned char* at) noexcept nogil:
    return <int64_t>((<unsigned long long>uint32_at(at) << 32) | uint32_at(at + 4))


cdef class Layout:
    """What rows of a relation look like now: the kind of each column's fields, and which columns are the key."""

    cdef bytes kinds
    cdef bytes key
    cdef Py_ssize_t columns
    cdef Py_ssize_t key_columns

    def __init__(self, bytes kinds, list key):
        self.kinds = kinds  # 't' or 'b' a column
        self.columns = len(kinds)
        self.key = b"".join([number.to_bytes(2, "little") for number in key])
        self.key_columns = len(key)


cdef tuple cut(const unsigned char* data, Py_ssize_t at, Py_ssize_t size, Layout layout):
    """The COPY tuple and the key of the TupleData at `at`, None if it needs the slow way (or is damaged)."""
    cdef Py_ssize_t starts[COLUMNS_MAX]
    cdef Py_ssize_t lengths[COLUMNS_MAX]
    cdef const unsigned char* kinds = <const unsigned char*>PyBytes_AS_STRING(layout.kinds)
    cdef const unsigned char* key_at = <const unsigned char*>PyBytes_AS_STRING(layout.key)
    cdef Py_ssize_t n, column, total = 2, key_total = 0, begin = at
    cdef Py_ssize_t length
    cdef unsigned char* out
    if at + 2 > size or (data[at] << 8 | data[at + 1]) != layout.columns:
        return None
    at += 2
    for n in range(layout.columns):
        if at >= size:
            return None
        if data[at] == 110:  # 'n'
            starts[n] = -1
            lengths[n] = 4
            at += 1
        elif data[at] == kinds[n] and at + 5 <= size:
            length = <Py_ssize_t>uint32_at(data + at + 1)
            if length > size - at - 5:
                return None
            starts[n] = at + 1
            lengths[n] = 4 + length
            at += 5 + length
        else:
            return None
        total += lengths[n]
    if at != size:
        return None
    row = PyBytes_FromStringAndSize(NULL, total)
    out = <unsigned char*>PyBytes_AS_STRING(row)
    out[0] = data[begin]
    out[1] = data[begin + 1]
    out += 2
    for n in range(layout.columns):
        put(out, data, starts[n], lengths[n])
        out += lengths[n]
    for n in range(layout.key_columns):
        key_total += lengths[key_at[2 * n] | key_at[2 * n + 1] << 8]
    key = PyBytes_FromStringAndSize(NULL, key_total)
    out = <unsigned char*>PyBytes_AS_STRING(key)
    for n in range(layout.key_columns):
        column = key_at[2 * n] | key_at[2 * n + 1] << 8
        put(out, data, starts[column], lengths[column])
        out += lengths[column]
    return row, key


cdef inline void put(unsigned char* out, const unsigned char* data, Py_ssize_t start, Py_ssize_t length) noexcept:
    if start < 0:
        out[0] = out[1] = out[2] = out[3] = 255  # NULL
    else:
        memcpy(out, data + start, length)


def pump(get_copy_data, decoder, Py_ssize_t messages_max, Py_ssize_t bytes_max):
    cdef Py_ssize_t done = 0
    cdef int status
    cdef Py_buffer view
    cdef Pump state = Pump(decoder)
    try:
        while done < messages_max or state.in_transaction:
            size, message = get_copy_data(1)
            if size <= 0:
                return size, done, None
            PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
            try:
                status = state.feed(<const unsigned char*>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
            if status == 2:
                return size, done, message
            if status == 1:
                state.store()
                decoder.feed(bytes(message))
                state.load()
            done += 1
            if state.bytes >= bytes_max:
                break
        return 1, done, None
    finally:
        state.store()


cdef class Pump:
    """The decoder's state in C while messages are pumped; `store` gives it back, `load` takes it again."""

    cdef object decoder, builder
    cdef list positions, times, ids
    cdef dict tables, sinks
    cdef object tx
    cdef Py_ssize_t rank, bytes
    cdef bint skipping, in_transaction
    cdef int64_t skip_to, end_position, begun_position, begun_time
    cdef uint32_t begun_id
    cdef bint begun

    def __init__(self, decoder):
        self.decoder = decoder
        self.load()

    cdef load(self):
        decoder = self.decoder
        builder = decoder.builder
        self.builder = builder
        self.positions = builder.positions
        self.times = builder.commit_times_us
        self.ids = builder.source_ids
        self.rank = builder.rank
        self.bytes = builder.bytes
        self.tables = decoder.tables
        self.tx = decoder.tx
        self.skipping = decoder.skipping
        self.in_transaction = decoder.in_transaction
        self.skip_to = decoder.skip_to
        self.end_position = decoder.end_position
        self.begun = False
        self.sinks = {}

    cdef store(self):
        decoder = self.decoder
        self.builder.rank = self.rank
        self.builder.bytes = self.bytes
        decoder.tx = self.tx
        decoder.skipping = self.skipping
        decoder.in_transaction = self.in_transaction
        decoder.end_position = self.end_position
        if not self.in_transaction:
            decoder.running = None
        elif self.begun:
            decoder.running = (self.begun_position, self.begun_time, self.begun_id)

    cdef int feed(self, const unsigned char* data, Py_ssize_t size) except -1:
        """0: done; 1: needs the slow way; 2: no WAL data."""
        if size <= HEADER or data[0] != 119:  # 'w'
            return 2
        cdef unsigned char kind = data[HEADER]
        if kind == 85:  # 'U'
            if self.skipping:
                return 0
            return 1 if size < 31 or data[30] != 78 else self.append(data, size, kind)  # 78: 'N'
        if kind == 73:  # 'I'
            return 0 if self.skipping else self.append(data, size, kind)
        if kind == 66 and size >= 46:  # 'B'
            self.begin(data)
            return 0
        if kind == 67 and size >= 51:  # 'C'
            self.end_position = int64_at(data + 35)
            self.in_transaction = False
            return 0
        return 1

    cdef begin(self, const unsigned char* data):
        self.begun_position = int64_at(data + 26)
        self.begun_time = int64_at(data + 34) + PG_EPOCH_US
        self.begun_id = uint32_at(data + 42)
        self.in_transaction = True
        self.skipping = self.begun_position <= self.skip_to
        self.begun = not self.skipping
        if self.begun:
            PyList_Append(self.positions, self.begun_position)
            PyList_Append(self.times, self.begun_time)
            PyList_Append(self.ids, self.begun_id)
            self.tx = len(self.positions) - 1

    cdef int append(self, const unsigned char* data, Py_ssize_t size, unsigned char kind) except -1:
        cdef tuple sink, pieces
        cdef PyObject* found
        if size < 31:
            return 1
        oid = uint32_at(data + 26)
        found = PyDict_GetItem(self.sinks, oid)
        if found == NULL:
            table = self.tables.get(PyBytes_FromStringAndSize(<const char*>data + 26, 4))
            if table is None or table.uses is not None:
                return 1
            section = table.section
            layout = table.layout
            if layout is None:
                kinds = bytes([98 if column.binary else 116 for column in table.relation.columns])
                layout = table.layout = Layout(kinds, table.keys)
            sink = (section.ops, section.tx, section.order, section.keys, section.rows, layout)
            self.sinks[oid] = sink
        else:
            sink = <tuple>found
        pieces = cut(data, 31, size, <Layout>sink[5])
        if pieces is None:
            return 1
        PyList_Append(<list>sink[0], kind)
        PyList_Append(<list>sink[1], self.tx)
        PyList_Append(<list>sink[2], self.rank)
        PyList_Append(<list>sink[3], pieces[1])
        PyList_Append(<list>sink[4], pieces[0])
        self.rank += 1
        self.bytes += len(<bytes>pieces[0])
        return 0
