/* All of the core that the binding sees. */
#ifndef COMMOPS_H
#define COMMOPS_H

#include "coll/coll.h"
#include "comm/agree.h"
#include "comm/engine.h"
#include "comm/piece.h"
#include "transport/shm.h"
#include "transport/tcp.h"
#include "transport/window.h"

#endif
