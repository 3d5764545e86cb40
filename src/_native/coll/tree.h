/* Binomial trees over ranks. A rank's place is its distance from the root: place = (rank - root) mod size. The parent
 * of a place is the place without its lowest set bit, so the subtree of a place is a run of places that starts with it.
 *
 *     7 places:          0               place   width of its subtree
 *                      / | \               0     7
 *                     1  2  4              1     1        child i of place p is p + 2^i, for 2^i < width(p),
 *                        |  | \            2     2        and its subtree has min(2^i, width(p) - 2^i) places
 *                        3  5  6           4     3
 *
 * A run of places wraps around at the last rank at most once, so it is one or two runs of ranks. */
#ifndef CMO_TREE_H
#define CMO_TREE_H

typedef struct cmo_tree {
    int size, root;
    int place;    /* ours */
    int width;    /* places of our subtree, our own included */
    int children;
} cmo_tree;

static inline cmo_tree cmo_tree_of(int rank, int root, int size)
{
    cmo_tree t = {.size = size, .root = root, .place = rank >= root ? rank - root : rank - root + size};
    t.width = t.place ? t.place & -t.place : size;
    if (t.width > size - t.place) t.width = size - t.place;
    while ((t.width - 1) >> t.children) t.children++;
    return t;
}

static inline int cmo_tree_rank(const cmo_tree *t, int place)
{
    return place < t->size - t->root ? place + t->root : place - (t->size - t->root);
}

static inline int cmo_tree_parent(const cmo_tree *t) { return cmo_tree_rank(t, t->place & (t->place - 1)); }
static inline int cmo_tree_child_place(const cmo_tree *t, int child) { return t->place + (1 << child); }
static inline int cmo_tree_child(const cmo_tree *t, int child)
{
    return cmo_tree_rank(t, cmo_tree_child_place(t, child));
}

static inline int cmo_tree_child_width(const cmo_tree *t, int child)
{
    int rest = t->width - (1 << child);
    return rest < 1 << child ? rest : 1 << child;
}

/* Of the places [place, place + width), the ones that stand before the wrap-around: the
 * first of one or two runs of ranks. */
static inline int cmo_tree_first_run(const cmo_tree *t, int place, int width)
{
    int before = t->size - t->root - place;
    return before <= 0 || before >= width ? width : before;
}

#endif
