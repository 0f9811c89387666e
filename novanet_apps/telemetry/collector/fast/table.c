#include "table.h"

#include <stdlib.h>

enum { FIRST_ROOM = 1024 };
#define SLOTS_A_ROW 2

static uint64_t mixed(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xE7037ED1A0B428DBu);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Of the key; seeded, so that nobody outside can aim at collisions. */
static uint64_t hashed(const row *r, uint64_t seed) {
    uint8_t padded[(KEY_SIZE + 15) / 16 * 16] = {0};
    memcpy(padded, r, KEY_SIZE);
    uint64_t state = seed;
    for (size_t at = 0; at < sizeof padded; at += 16) {
        uint64_t one, other;
        memcpy(&one, padded + at, 8);
        memcpy(&other, padded + at + 8, 8);
        state = mixed(state ^ one, other ^ seed);
    }
    return mixed(state, seed);
}

static bool grow(table *t, uint32_t room) {
    row *rows = realloc(t->rows, (size_t)room * sizeof *rows);
    if (!rows) return false;
    t->rows = rows;
    uint64_t *slots = calloc((size_t)room * SLOTS_A_ROW, sizeof *slots);
    if (!slots) return false;
    free(t->slots);
    t->slots = slots;
    t->room = room;
    t->mask = room * SLOTS_A_ROW - 1;
    for (uint32_t n = 0; n < t->count; n++) {
        uint64_t hash = hashed(&t->rows[n], t->seed);
        uint32_t at = (uint32_t)hash & t->mask;
        while (slots[at]) at = (at + 1) & t->mask;
        slots[at] = (hash & 0xFFFFFFFF00000000u) | (n + 1);
    }
    return true;
}

bool novanet_table_make(table *t, uint32_t most, uint64_t seed) {
    *t = (table){.most = most, .seed = seed};
    return grow(t, FIRST_ROOM);
}

void novanet_table_free(table *t) {
    free(t->rows);
    free(t->slots);
}

static uint64_t sum(uint64_t a, uint64_t b) {
    uint64_t found;
    return __builtin_add_overflow(a, b, &found) ? UINT64_MAX : found;
}

static void add_up(row *into, const row *more) {
    into->bytes = sum(into->bytes, more->bytes);
    into->packets = sum(into->packets, more->packets);
    into->samples = sum(into->samples, more->samples);
    into->rate = more->rate;
    into->tcp_flags |= more->tcp_flags;
    into->tos = more->tos;
    if (more->first_ms < into->first_ms) into->first_ms = more->first_ms;
    if (more->last_ms > into->last_ms) into->last_ms = more->last_ms;
}

bool novanet_table_add(table *t, const row *more) {
    uint64_t hash = hashed(more, t->seed), tag = hash & 0xFFFFFFFF00000000u;
    uint32_t at = (uint32_t)hash & t->mask;
    for (; t->slots[at]; at = (at + 1) & t->mask) {
        if ((t->slots[at] & 0xFFFFFFFF00000000u) != tag) continue;
        row *there = &t->rows[(uint32_t)t->slots[at] - 1];
        if (memcmp(there, more, KEY_SIZE) == 0) {
            add_up(there, more);
            return true;
        }
    }
    if (t->count >= t->most) return false;
    if (t->count == t->room) {
        if (!grow(t, t->room * 2)) return false;
        at = (uint32_t)hash & t->mask;
        while (t->slots[at]) at = (at + 1) & t->mask;
    }
    t->rows[t->count++] = *more;
    t->slots[at] = tag | t->count;
    return true;
}

void novanet_table_drain(table *t, row *rows) {
    memcpy(rows, t->rows, (size_t)t->count * sizeof *rows);
    uint32_t enough = FIRST_ROOM;
    while (enough < t->count && enough < t->room) enough *= 2;
    bool shrink = enough * 8 <= t->room; /* after a rush */
    t->count = 0;
    if (!shrink || !grow(t, enough)) memset(t->slots, 0, (size_t)t->room * SLOTS_A_ROW * sizeof *t->slots);
}
