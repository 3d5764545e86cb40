/* A call takes a few hundred nanoseconds, and the interpreter's own functions would take a good part of that to say
 * where it comes from: they make an object of each frame. So frames are read as the interpreter keeps them, where that
 * is known for its version, and each instruction that calls is looked up by its address. It is described once. */
#include "site.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(PYPY_VERSION) && PY_VERSION_HEX < 0x030e0000
#define READS_FRAMES
#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#include "internal/pycore_frame.h"
#endif

enum { SLOTS = 512, MOST_USED = SLOTS * 3 / 4, DEPTH = 8 };

typedef struct site_slot {
    const void *at;   /* the instruction; NULL: free */
    PyObject *code;   /* whose it is: kept, so that no other takes its address; owned */
    uint32_t number;
    bool passed_over;
} site_slot;

struct site_table {
    site_slot slot[SLOTS];
    unsigned used;
    cmo_flight *flight; /* the engine's */
    PyObject *folder;   /* owned */
};

site_table *site_table_new(PyObject *folder, cmo_flight *flight)
{
    site_table *table = flight ? calloc(1, sizeof *table) : NULL;
    if (!table) return NULL;
    table->flight = flight;
    Py_INCREF(folder);
    table->folder = folder;
    return table;
}

void site_table_free(site_table *table)
{
    if (!table) return;
    for (int i = 0; i < SLOTS; i++) Py_XDECREF(table->slot[i].code);
    Py_DECREF(table->folder);
    free(table);
}

static const char *utf8(PyObject *text)
{
    const char *bytes = text && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    if (!bytes) PyErr_Clear();
    return bytes ? bytes : "?";
}

static bool is_ours(const site_table *table, PyCodeObject *code)
{
    const char *folder = utf8(table->folder), *file = utf8(code->co_filename);
    const size_t n = strlen(folder);
    return !strncmp(file, folder, n) && file[n] == '/' && !strchr(file + n + 1, '/');
}

static site_slot *slot_of(site_table *table, const void *at)
{
    size_t i = ((uintptr_t)at >> 1) * UINT64_C(0x9e3779b97f4a7c15) >> 32;
    while (table->slot[i %= SLOTS].at && table->slot[i].at != at) i++;
    return &table->slot[i];
}

/* A place that is seen for the first time, or for which there is no room. */
static site_slot learn(site_table *table, site_slot *slot, const void *at, PyCodeObject *code, int offset)
{
    site_slot found = {.at = at, .passed_over = is_ours(table, code)};
    if (table->used >= MOST_USED) return found;
    if (!found.passed_over)
        found.number = cmo_flight_site(table->flight, utf8(code->co_filename), PyCode_Addr2Line(code, offset),
                                       utf8(code->co_qualname));
    Py_INCREF(code);
    found.code = (PyObject *)code;
    table->used++;
    return *slot = found;
}

/* Is the caller's place known with this? */
static inline bool is_caller(site_table *table, const void *at, PyCodeObject *code, int offset)
{
    site_slot *slot = slot_of(table, at), found = *slot;
    if (!found.at) found = learn(table, slot, at, code, offset);
    cmo_flight_caller = found.number;
    return !found.passed_over;
}

#ifdef READS_FRAMES

#if PY_VERSION_HEX >= 0x030d0000
static PyCodeObject *code_of(_PyInterpreterFrame *f)
{
    return f->f_executable && PyCode_Check(f->f_executable) ? (PyCodeObject *)f->f_executable : NULL;
}
#define FIRST(state) ((state)->current_frame)
#define INSTRUCTION(f) ((f)->instr_ptr)
#else
static PyCodeObject *code_of(_PyInterpreterFrame *f) { return f->f_code; }
#define FIRST(state) ((state)->cframe->current_frame)
#define INSTRUCTION(f) ((f)->prev_instr)
#endif

#if PY_VERSION_HEX >= 0x030c0000
#define IS_PYTHON(f) ((f)->owner != FRAME_OWNED_BY_CSTACK)
#else
#define IS_PYTHON(f) true
#endif

void site_note(site_table *table)
{
    if (!table) return;
    cmo_flight_caller = 0;
    _PyInterpreterFrame *f = FIRST(PyThreadState_Get());
    if (f) f = f->previous; /* the first is the method that the binding was called by */
    for (int depth = 0; f && depth < DEPTH; f = f->previous) {
        PyCodeObject *code = IS_PYTHON(f) ? code_of(f) : NULL;
        if (!code) continue;
        depth++;
        if (is_caller(table, INSTRUCTION(f), code, _PyInterpreterFrame_LASTI(f) * (int)sizeof(_Py_CODEUNIT))) return;
    }
}

#else

void site_note(site_table *table)
{
    if (!table) return;
    cmo_flight_caller = 0;
    PyFrameObject *f = PyEval_GetFrame();
    Py_XINCREF(f);
    for (int depth = 0; f && depth <= DEPTH; depth++) {
        PyFrameObject *back = PyFrame_GetBack(f);
        Py_DECREF(f);
        f = back;
        if (!f) return;
        PyCodeObject *code = PyFrame_GetCode(f);
        const int offset = PyFrame_GetLasti(f);
        const bool found = is_caller(table, (const char *)code + offset, code, offset);
        Py_DECREF(code);
        if (found) break;
    }
    Py_XDECREF(f);
}

#endif
