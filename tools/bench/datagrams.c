/* datagrams FILE PORT RATE COUNT OFFSET STEP: sends COUNT datagrams to 127.0.0.1:PORT, RATE a second (0: as fast as may be).
 *
 * FILE has datagrams, each after its length in 32 bits, which are sent in turn. At OFFSET of each a sequence number in 32 bits is put, that
 * grows by STEP. Prints {"sent": …, "seconds": …}. Exit status 1 when something cannot be done. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

enum { MOST = 65536, BATCH = 8 };

static struct iovec ring[MOST];

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int fail(const char *what) {
    perror(what);
    return 1;
}

static size_t load(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t count = 0;
    uint32_t length;
    while (file && count < MOST && fread(&length, 4, 1, file) == 1) {
        uint8_t *bytes = malloc(length);
        if (!bytes || fread(bytes, 1, length, file) != length) return 0;
        ring[count++] = (struct iovec){bytes, length};
    }
    if (file) fclose(file);
    return count;
}

int main(int argc, char **argv) {
    if (argc != 7) return fail("datagrams FILE PORT RATE COUNT OFFSET STEP");
    size_t there = load(argv[1]);
    double rate = atof(argv[3]);
    long count = atol(argv[4]), offset = atol(argv[5]), step = atol(argv[6]);
    if (!there) return fail(argv[1]);
    int to = socket(AF_INET, SOCK_DGRAM, 0), room = 1 << 20;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(to, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    if (to < 0 || connect(to, (struct sockaddr *)&address, sizeof address)) return fail("connect");
    struct mmsghdr messages[BATCH] = {0};
    uint32_t sequence = 0;
    double began = seconds();
    for (long sent = 0; sent < count;) {
        int size = count - sent < BATCH ? (int)(count - sent) : BATCH;
        for (int n = 0; n < size; n++) {
            struct iovec *one = &ring[(size_t)(sent + n) % there];
            uint32_t number = htonl(sequence);
            memcpy((uint8_t *)one->iov_base + offset, &number, 4);
            sequence += (uint32_t)step;
            messages[n].msg_hdr.msg_iov = one, messages[n].msg_hdr.msg_iovlen = 1;
        }
        for (double left; rate > 0 && (left = began + (double)sent / rate - seconds()) > 0;) {
            struct timespec pause = {0, (long)((left - 2e-4) * 1e9)};
            if (left > 3e-4) nanosleep(&pause, NULL);
        }
        for (int done = 0; done < size;) {
            int more = sendmmsg(to, messages + done, (unsigned)(size - done), 0);
            if (more <= 0) return fail("sendmmsg");
            done += more;
        }
        sent += size;
    }
    printf("{\"sent\": %ld, \"seconds\": %.4f}\n", count, seconds() - began);
    return 0;
}
