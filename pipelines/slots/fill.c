/* Members take, in turns, the first free slot of their permutation: see filling.py, which calls this and makes all arrays.
 *
 * size: how many slots there are, a prime; turns: how many members take one, not more than are free. order: the member of each
 * turn. place, step: where each member begins, and how far it goes on, modulo size; place is overwritten. taken: a bit for
 * each slot that is not free; overwritten. table: whose a slot is; those that nobody takes are left as they are.
 */
#include <stdint.h>

#define MOST_LAST 1024

static int is_taken(const uint64_t *taken, uint32_t slot)
{
    return taken[slot >> 6] >> (slot & 63) & 1;
}

/* The number by which step is 1 modulo size, by Euclid's algorithm. */
static uint32_t inverse(uint32_t step, uint32_t size)
{
    int64_t before = 0, now = 1, next;
    uint32_t larger = size, smaller = step, rest;

    while (smaller > 1) {
        next = before - (int64_t) (larger / smaller) * now;
        rest = larger % smaller;
        before = now, now = next;
        larger = smaller, smaller = rest;
    }
    return (uint32_t) (now < 0 ? now + size : now);
}

void novanet_fill(uint32_t size, uint32_t turns, const uint16_t *order, uint32_t *place, const uint32_t *step,
                  uint64_t *taken, uint16_t *table)
{
    uint32_t left[MOST_LAST], last = 1, free = 0, count = 0, turn;

    for (uint32_t slot = 0; slot < size; slot++)
        free += !is_taken(taken, slot);
    while (last * last < size && last < MOST_LAST)
        last++;
    for (turn = 0; turn < turns && free - turn > last; turn++) {
        uint16_t member = order[turn];
        uint32_t at = place[member], by = step[member];

        while (is_taken(taken, at)) {
            at += by;
            at -= at >= size ? size : 0;
        }
        taken[at >> 6] |= UINT64_C(1) << (at & 63);
        table[at] = member;
        place[member] = at;
    }
    if (turn == turns)
        return;
    /* Half of all steps would be in search of the last sqrt(size) slots. How far each of these is takes less to compute. */
    for (uint32_t slot = 0; slot < size; slot++)
        if (!is_taken(taken, slot))
            left[count++] = slot;
    for (; turn < turns; turn++) {
        uint16_t member = order[turn];
        uint32_t at = place[member], best = 0, nearest = size;
        uint64_t steps = inverse(step[member], size);

        for (uint32_t each = 0; each < count; each++) {
            uint32_t far = (uint32_t) ((left[each] + size - at) * steps % size);
            if (far < nearest)
                nearest = far, best = each;
        }
        table[left[best]] = member;
        left[best] = left[--count];
    }
}
