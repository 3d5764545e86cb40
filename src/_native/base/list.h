/* A doubly linked list that lives inside what it links. A node that is in no list points at itself. */
#ifndef CMO_LIST_H
#define CMO_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct cmo_node {
    struct cmo_node *next, *prev;
} cmo_node;

static inline void cmo_list_init(cmo_node *n) { n->next = n->prev = n; }
static inline bool cmo_list_empty(const cmo_node *head) { return head->next == head; }

static inline void cmo_list_append(cmo_node *head, cmo_node *n)
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}

static inline void cmo_list_remove(cmo_node *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    cmo_list_init(n);
}

/* The struct of type `type` whose member `member` is the node. */
#define CMO_ENTRY(node, type, member) ((type *)((char *)(node) - offsetof(type, member)))

/* Walk a list; the current node may be removed meanwhile. */
#define CMO_EACH(node, head) \
    for (cmo_node *node = (head)->next, *node##_next = node->next; node != (head); \
         node = node##_next, node##_next = node->next)

#endif
