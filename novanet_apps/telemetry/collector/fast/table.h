/* Flows of an interval by key, until they are drained: rows of decode/records.py, AGGREGATE. */
#ifndef NOVANET_TABLE_H
#define NOVANET_TABLE_H

#include "bytes.h"

typedef struct __attribute__((packed)) {
    /* the key */
    uint32_t exporter;
    uint8_t src[16], dst[16];
    uint16_t sport, dport;
    uint8_t protocol, version, direction;
    uint32_t vni, in_if, out_if;
    uint64_t src_mac, dst_mac;
    /* the values */
    uint64_t bytes, packets, samples;
    uint32_t rate;
    uint8_t tcp_flags, tos;
    uint64_t first_ms, last_ms;
} row;

#define KEY_SIZE offsetof(row, bytes)
enum { IN = 0, OUT = 1, UNKNOWN = 2 };
#define NO_VNI 0xFFFFFFFFu

typedef struct {
    row *rows;
    uint64_t *slots; /* the row's number + 1 below, the highest bits of its hash above; 0: free */
    uint32_t count, room, most;
    uint32_t mask; /* of slots */
    uint64_t seed;
} table;

bool novanet_table_make(table *t, uint32_t most, uint64_t seed);
void novanet_table_free(table *t);

/* Adds a row up; false when there is no room for another flow. */
bool novanet_table_add(table *t, const row *more);

/* Copies all rows, which are then gone. */
void novanet_table_drain(table *t, row *rows);

#endif
