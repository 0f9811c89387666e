/* Short requests over TCP as fast as they are answered, and how long each took.
 *
 *   requests serve PORT...
 *   requests fresh DESTINATION-PORT FIRST COUNT PARALLEL ADDRESS...
 *   requests kept  DESTINATION-PORT FIRST COUNT ADDRESS
 *
 * A request and its answer are SIZE bytes each. `fresh` makes a connection for each request, PARALLEL at a time, to the addresses in
 * turn: it is opened, asks, is answered, and ends by FIN from the server first, so that nothing is reset. Source ports go up from FIRST;
 * a caller that hands on never uses one twice: a connection that conntrack still remembers would make the switch do other work.
 * `kept` asks COUNT times on one connection. Both print as JSON: seconds in all, requests that failed, and microseconds from the start of
 * `connect` (`kept`: from sending) to the answer, of each request.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, BACKLOG = 4096, EVENTS = 256, PATIENCE_MS = 5000, DESCRIPTORS = 1 << 16 };
static const char LAST = 'c', MORE = 'k'; /* a request's first byte: whether the server is to close */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void watch(int epoll, int operation, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, operation, fd, &event)) fail("epoll_ctl");
}

static struct sockaddr_in address(const char *ip, int port)
{
    struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (ip && inet_pton(AF_INET, ip, &made.sin_addr) != 1) fail(ip);
    return made;
}

static int bound(int port, int flags)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    struct sockaddr_in own = address(NULL, port);
    if (fd < 0) fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(fd, (void *)&own, sizeof own)) fail("bind");
    return fd;
}

static void serve(int count, char **ports)
{
    static char listens[DESCRIPTORS];
    int epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        int fd = bound(atoi(ports[i]), SOCK_NONBLOCK);
        if (listen(fd, BACKLOG)) fail("listen");
        listens[fd] = 1;
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd, peer;
            char buffer[SIZE];
            if (listens[fd]) {
                while ((peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) watch(epoll, EPOLL_CTL_ADD, peer, EPOLLIN);
            } else if (read(fd, buffer, SIZE) != SIZE || write(fd, buffer, SIZE) != SIZE || buffer[0] == LAST) {
                close(fd);
            }
        }
    }
}

static double began[DESCRIPTORS];
static char answered[DESCRIPTORS];
static double *latencies;
static int made, done, failed;

static void report(double seconds)
{
    printf("{\"seconds\": %.6f, \"failed\": %d, \"microseconds\": [", seconds, failed);
    for (int i = 0; i < done; i++) printf(i ? ", %.0f" : "%.0f", latencies[i] * 1e6);
    puts("]}");
}

static void next(int epoll, int port, int first, char **addresses, int targets)
{
    int fd = bound(first + made, SOCK_NONBLOCK);
    struct sockaddr_in to = address(addresses[made % targets], port);
    if (fd >= DESCRIPTORS) fail("too many descriptors");
    made++;
    began[fd] = now();
    answered[fd] = 0;
    if (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS) fail("connect");
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLOUT);
}

/* Whether the connection is over. */
static int go_on(int epoll, int fd, unsigned events)
{
    char buffer[SIZE] = {LAST};
    if (events == EPOLLOUT) {
        if (write(fd, buffer, SIZE) != SIZE) return failed++, 1;
        watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
        return 0;
    }
    ssize_t got = read(fd, buffer, SIZE);
    if (got == SIZE) {
        latencies[done++] = now() - began[fd];
        answered[fd] = 1;
        return 0;
    }
    if (!answered[fd]) failed++;
    return 1;
}

static void fresh(int port, int first, int count, int parallel, char **addresses, int targets)
{
    int epoll = epoll_create1(0), under_way = 0;
    double start = now();
    for (; under_way < parallel && made < count; under_way++) next(epoll, port, first, addresses, targets);
    while (under_way) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, PATIENCE_MS);
        if (ready <= 0) {
            failed += under_way;
            break;
        }
        for (int i = 0; i < ready; i++) {
            if (!go_on(epoll, events[i].data.fd, events[i].events)) continue;
            close(events[i].data.fd);
            if (made < count)
                next(epoll, port, first, addresses, targets);
            else
                under_way--;
        }
    }
    report(now() - start);
}

static void kept(int port, int first, int count, const char *ip)
{
    struct sockaddr_in to = address(ip, port);
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int fd = bound(first, 0);
    double start = now();
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* connect's, too */
    if (connect(fd, (void *)&to, sizeof to)) fail("connect");
    for (made = 0; made < count; made++) {
        char buffer[SIZE] = {made + 1 < count ? MORE : LAST};
        double asked = now();
        if (write(fd, buffer, SIZE) != SIZE || recv(fd, buffer, SIZE, MSG_WAITALL) != SIZE) {
            failed = count - made;
            break;
        }
        latencies[done++] = now() - asked;
    }
    report(now() - start);
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "serve")) {
        serve(argc - 2, argv + 2);
    } else if (argc > 5) {
        int port = atoi(argv[2]), first = atoi(argv[3]), count = atoi(argv[4]);
        if (!(latencies = calloc(count, sizeof *latencies))) fail("calloc");
        if (!strcmp(argv[1], "kept")) return kept(port, first, count, argv[5]), 0;
        if (argc > 6) return fresh(port, first, count, atoi(argv[5]), argv + 6, argc - 6), 0;
    }
    fputs("see the beginning of requests.c\n", stderr);
    return 2;
}
