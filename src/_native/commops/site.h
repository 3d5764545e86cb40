/* Where in a program a call is made: the innermost frame that is not of the communicator's own modules, as a number of
 * the flight recorder (comm/flight.h). Under the interpreter's lock. */
#ifndef COMMOPS_SITE_H
#define COMMOPS_SITE_H

#include <Python.h>

#include "comm/flight.h"

typedef struct site_table site_table; /* the places known so far */

/* `folder`: the package's; frames of modules that lie in it, though not of those in folders of it, are passed over.
 * NULL: no memory, or no recorder (`flight` is NULL), and then nothing is noted. */
site_table *site_table_new(PyObject *folder, cmo_flight *flight);
void site_table_free(site_table *table); /* before the recorder's memory goes, or after: that is not touched */
void site_note(site_table *table);       /* sets cmo_flight_caller for this thread */

#endif
